"""timm backbones: built, adapted to detection, and which of them fit."""

from dyzoo.backbones.backbone import Backbone

__all__ = ["Backbone"]
