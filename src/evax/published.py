"""Numbers of the paper and of published weights that several rooms use."""

Channels = float | tuple[float, float, float]  # one number for grey, or one each for red, green and blue

MERGED_520K_MEAN, MERGED_520K_STD = 0.49185243, 0.28509309  # of images in [0, 1]; paper-facts.md 2.1
# of ImageNet's pixels in [0, 1], as torchvision and timm have them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
