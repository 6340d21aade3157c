"""A detector from pixels to boxes: preprocessing, backbone, feature pyramid, heads; DyHead is `dyzoo.dyhead`."""
