"""timm backbones: built, adapted to detection, and which of them fit."""

from dyzoo.model.backbones.backbone import Backbone

__all__ = ["Backbone"]
