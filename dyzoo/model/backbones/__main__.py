"""python -m dyzoo.model.backbones"""

from dyzoo.model.backbones.trying import main

if __name__ == "__main__":
    main()
