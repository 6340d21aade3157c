"""Formats of dataset folders: COCO JSON, Pascal VOC and YOLO, read into records and written from them."""
