"""python -m dyzoo.backbones"""

from dyzoo.backbones.families import main

if __name__ == "__main__":
    main()
