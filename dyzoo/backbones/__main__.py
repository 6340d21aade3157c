"""python -m dyzoo.backbones"""

from dyzoo.backbones.trying import main

if __name__ == "__main__":
    main()
