"""The networks of the lectures: every count of their papers, from shapes alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nn_lib.analysis import memory, summarize
from nn_lib.checks import UserError
from nn_lib.interop import torchvision_model
from nn_lib.layers import ResidualBlock
from nn_lib.models import (
    VGG11,
    VGG13,
    VGG16,
    VGG19,
    AlexNet,
    CifarNet,
    CifarResNet,
    GoogLeNet,
    LeNet5,
    LeNet5Original,
    ResNet18,
    ResNet34,
    ResNet50,
    ResNet101,
    ResNet152,
)
from nn_lib.models.lenet_original import C3_TABLE, CODES


def images(size, channels=3, batch=1):
    return jax.ShapeDtypeStruct((batch, size, size, channels), jnp.float32)


@functools.cache
def counted(model, size=224, channels=3):
    return summarize(model, images(size, channels))


WIDE = CifarResNet(26, "B", width=160, stem_width=16, pre_activation=True)
V1 = {"stride_in_3x3": False}
# (model, size, channels, parameters, multiply-adds)
NETWORKS = [
    (LeNet5(), 32, 1, 61_706, 416_520),
    (CifarNet(), 32, 3, 62_006, 651_720),
    (AlexNet(), 227, 3, 62_378_344, 1_135_256_096),
    (AlexNet(groups=2), 227, 3, 60_965_224, 724_406_816),
    (VGG11(), 224, 3, 132_863_336, 7_609_090_048),
    (VGG13(), 224, 3, 133_047_848, 11_308_466_176),
    (VGG16(), 224, 3, 138_357_544, 15_470_264_320),
    (VGG19(), 224, 3, 143_667_240, 19_632_062_464),
    (GoogLeNet(), 224, 3, 6_998_552, 1_582_671_872),
    (ResNet18(), 224, 3, 11_689_512, 1_814_073_344),
    (ResNet18(**V1), 224, 3, 11_689_512, 1_814_073_344),
    (ResNet34(), 224, 3, 21_797_672, 3_663_761_408),
    (ResNet50(), 224, 3, 25_557_032, 4_089_184_256),
    (ResNet50(**V1), 224, 3, 25_557_032, 3_857_973_248),
    (ResNet101(), 224, 3, 44_549_160, 7_801_405_440),
    (ResNet101(**V1), 224, 3, 44_549_160, 7_570_194_432),
    (ResNet152(), 224, 3, 60_192_808, 11_513_626_624),
    (ResNet152(**V1), 224, 3, 60_192_808, 11_282_415_616),
    (CifarResNet(20), 32, 3, 269_722, 40_551_040),
    (CifarResNet(32), 32, 3, 464_154, 68_862_592),
    (CifarResNet(44), 32, 3, 658_586, 97_174_144),
    (CifarResNet(56), 32, 3, 853_018, 125_485_696),
    (CifarResNet(110), 32, 3, 1_727_962, 252_887_680),
    pytest.param(CifarResNet(1202), 32, 3, 19_421_274, 2_829_238_912, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "size", "channels", "parameters", "macs"), NETWORKS)
def test_parameters_and_multiply_adds_are_the_papers(model, size, channels, parameters, macs):
    summary = counted(model, size, channels)
    assert (summary.parameters, summary.macs) == (parameters, macs)


@pytest.mark.parametrize(
    ("model", "size", "parameters"),
    [
        (CifarResNet(20, "B"), 32, 272_474),
        (CifarResNet(32, "B"), 32, 466_906),
        (CifarResNet(44, "B"), 32, 661_338),
        (CifarResNet(56, "B"), 32, 855_770),
        (CifarResNet(110, "B"), 32, 1_730_714),
        pytest.param(CifarResNet(1202, "B"), 32, 19_424_026, marks=pytest.mark.slow),
        (WIDE, 32, 36_479_194),  # WRN-28-10
        (ResNet34(shortcut="A"), 224, 21_623_848),
        (GoogLeNet(auxiliary=True), 224, 13_378_280),
        (GoogLeNet(batch_norm=True), 224, 7_005_832),
        (GoogLeNet(batch_norm=True, window5=3), 224, 6_624_904),
        (GoogLeNet(batch_norm=True, window5=3, auxiliary=True), 224, 13_004_888),
        (ResNet50(inner_factor=2), 224, 68_883_240),  # torchvision's wide_resnet50_2
        (VGG11(batch_norm=True), 224, 132_868_840),
    ],
)
def test_variants_have_their_parameters(model, size, parameters):
    variables = jax.eval_shape(model.init, jax.random.key(0), images(size))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])) == parameters


def test_lenet_has_sixty_thousand_parameters_and_its_connections():
    summary = counted(LeNet5Original(), 32, 1)
    table = {row.path: row for row in summary.rows}
    shapes = {"C1": (28, 28, 6), "S2": (14, 14, 6), "C3": (10, 10, 16), "S4": (5, 5, 16)}
    assert {name: table[name].shape[1:] for name in shapes} == shapes
    parameters = {"C1": 156, "S2": 12, "C3": 1516, "S4": 32, "C5": 48_120, "F6": 10_164}
    assert {name: table[name].parameters for name in parameters} == parameters
    assert summary.parameters == 60_000
    # A connection is a weight or a bias of an output; sub-sampling has four inputs and a bias.
    connections = {
        name: table[name].macs + np.prod(table[name].shape) for name in ("C1", "C3", "C5", "F6")
    }
    connections |= {name: 5 * np.prod(table[name].shape) for name in ("S2", "S4")}
    expected = {"C1": 122_304, "S2": 5_880, "C3": 151_600, "S4": 2_000, "C5": 48_120}
    assert connections == expected | {"F6": 10_164}
    assert sum(connections.values()) + CODES.size == 340_908
    assert [len(row) for row in C3_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert all(sum(m in row for row in C3_TABLE) == 10 for m in range(6))


def test_alexnets_units_layer_by_layer():
    summary = counted(AlexNet(), 227)
    units = [290_400, 186_624, 64_896, 64_896, 43_264, 4_096, 4_096, 1_000]
    names = [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7", "fc8"]
    assert [summary[name].activations for name in names] == units
    assert summary.activations == 659_272
    parameters = [34_944, 614_656, 885_120, 1_327_488, 884_992, 37_752_832, 16_781_312, 4_097_000]
    assert [summary[name].parameters for name in names] == parameters
    macs = [105_415_200, 447_897_600, 149_520_384, 224_280_576, 149_520_384]
    assert [summary[name].macs for name in names] == [*macs, 37_748_736, 16_777_216, 4_096_000]
    convolved = [row for row in summary.rows if row.path.startswith("conv")]
    assert sum(row.parameters for row in convolved) == 3_747_200
    assert summary.parameters - 3_747_200 == 58_631_144
    torchs = counted(torchvision_model("alexnet"))
    assert (torchs.parameters, torchs.macs) == (61_100_840, 714_188_480)
    grouped = counted(AlexNet(groups=2), 227)
    assert grouped.parameters - 58_631_144 == 2_334_080
    assert [grouped[f"conv{i}"].parameters for i in (2, 4, 5)] == [307_456, 663_936, 442_624]
    order = [row.path for row in summary.rows if row.path.startswith(("pool", "norm"))]
    assert order == ["pool1", "norm1", "pool2", "norm2", "pool3"]
    published = [row.path for row in counted(AlexNet(order="norm_pool"), 227).rows]
    assert published[:4] == ["conv1", "relu1", "norm1", "pool1"]


def test_vggs_convolutions_and_units():
    convolutions = {
        VGG11: (9_220_480, 7_485_456_384),
        VGG13: (9_404_992, 11_184_832_512),
        VGG16: (14_714_688, 15_346_630_656),
        VGG19: (20_024_384, 19_508_428_800),
    }
    for model, counts in convolutions.items():
        rows = [row for row in counted(model()).rows if row.path.startswith("conv")]
        assert (sum(row.parameters for row in rows), sum(row.macs for row in rows)) == counts
        dense = [counted(model())[name].parameters for name in ("fc6", "fc7", "fc8")]
        assert dense == [102_764_544, 16_781_312, 4_097_000]
    assert counted(VGG16()).activations == 13_556_712
    assert counted(VGG19()).activations == 14_861_288
    assert counted(VGG16())["conv1_2/conv"].parameters == 36_928


@pytest.mark.slow
def test_resnets_projections_norms_and_the_lectures_memory():
    for model, params, macs in (
        (ResNet34, 173_824, 19_267_584),
        (ResNet50, 2_776_576, 359_661_568),
    ):
        rows = [row for row in counted(model()).rows if "shortcut" in row.path]
        assert sum(row.parameters for row in rows) == params
        assert sum(row.macs for row in rows) == macs
    norms = {ResNet18: 9_600, ResNet34: 17_024, ResNet50: 53_120, ResNet101: 105_344}
    norms[ResNet152] = 151_424
    convolutions = {ResNet18: 20, ResNet34: 36, ResNet50: 53, ResNet101: 104, ResNet152: 155}
    for model, count in convolutions.items():
        rows = counted(model()).rows
        assert sum(row.kind == "Conv" for row in rows) == count
        assert sum(r.parameters for r in rows if r.kind == "BatchNorm") == norms[model]
    assert counted(ResNet50()).activations == 11_114_984
    v1 = counted(ResNet50(**V1))
    assert v1.activations == 10_588_136
    own, later = memory.account(), memory.account(stride_in_3x3=True)
    assert (own.kept, own.bytes) == (16_106_496, 166_654_112)  # the lecture's 16 million, 168 MB
    assert (later.kept, later.bytes) == (16_633_344, 168_761_504)
    assert (own.products, later.products) == (10_588_136, 11_114_984)
    assert round(own.weights, -6) == memory.CLAIMED[0]
    assert round(later.all_outputs, -5) == 37_400_000  # with norms and rectifiers
    assert "168,000,000" in memory.as_text() and "16,106,496" in memory.as_text()
    for fields, parameters in (({}, 73_984), ({"bottleneck": True}, 70_400)):
        block = ResidualBlock(256 if fields else 64, **fields)
        x = images(56, 256 if fields else 64)
        assert summarize(block, x).parameters == parameters


# From the input on: (network, size, channels, {layer: receptive field})
FIELDS = [
    (LeNet5Original(), 32, 1, {"C1": 5, "S2": 6, "C3": 14, "S4": 16, "C5": 32}),
    (
        AlexNet(),
        227,
        3,
        {
            **{"conv1": 11, "pool1": 19, "conv2": 51, "pool2": 67, "conv3": 99},
            **{"conv4": 131, "conv5": 163, "pool3": 195, "fc6": 355},
        },
    ),
    (
        VGG16(),
        224,
        3,
        {
            **{"conv1_2": 5, "pool1": 6, "conv2_2": 14, "pool2": 16, "conv3_3": 40, "pool3": 44},
            **{"conv4_3": 92, "pool4": 100, "conv5_3": 196, "pool5": 212, "fc6": 404},
        },
    ),
    (VGG19(), 224, 3, {"pool5": 268}),
    (ResNet18(), 224, 3, {"stage4/block2/norm2": 435}),
    (ResNet34(), 224, 3, {"stage4/block3/norm2": 899}),
    (ResNet50(**V1), 224, 3, {"stage4/block3/norm3": 483}),
    (ResNet50(), 224, 3, {"stage4/block3/norm3": 427}),
    (ResNet101(**V1), 224, 3, {"stage4/block3/norm3": 1027}),
    (ResNet101(), 224, 3, {"stage4/block3/norm3": 971}),
    (ResNet152(**V1), 224, 3, {"stage4/block3/norm3": 1507}),
    (ResNet152(), 224, 3, {"stage4/block3/norm3": 1451}),
    (CifarNet(), 32, 3, {"conv1": 5, "pool1": 6, "conv2": 14, "pool2": 16}),
]


@pytest.mark.parametrize(("model", "size", "channels", "fields"), FIELDS)
def test_receptive_fields(model, size, channels, fields):
    summary = counted(model, size, channels)
    rows = {row.path.removesuffix("/conv"): row for row in summary.rows}
    assert {name: rows[name].receptive_field for name in fields} == fields
    if "fc6" in fields:  # the pool before it
        assert rows[[name for name in fields if name.startswith("pool")][-1]].stride == 32


SMALL = jnp.ones((1, 32, 32, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(CifarNet(), jnp.ones((32, 32, 3))), r"got \[32, 32, 3\]; for a single image"),
        (lambda: run(CifarNet(), jnp.ones((1, 3, 32, 32))), "channels first; use images.transpose"),
        (lambda: run(CifarNet(), jnp.ones((1, 32, 32, 3), jnp.uint8)), "images, got uint8; scale"),
        (lambda: run(AlexNet(), SMALL), r"AlexNet on images \[1, 32, 32, 3\], pool2: .* ran out"),
        (lambda: run(VGG11(), SMALL[:, :16, :16]), "pool5: max_pool with window 2 ran out of pix"),
        (lambda: run(LeNet5(), jnp.ones((1, 28, 28, 1))), r"\[B, 32, 32, C\].*pad 28x28 digits"),
        (lambda: run(CifarResNet(8), SMALL, capture=("stage4",)), "is no layer; did you mean stag"),
        (lambda: run(CifarResNet(8, "D"), SMALL), "shortcut 'D' is unknown; there are A, B, C"),
        (lambda: CifarResNet(21), "6n [+] 2 layers, which 21 is not; the nearest is 20"),
        (lambda: run(LeNet5Original(num_classes=11), jnp.ones((1, 32, 32, 1))), "codes for 10 dig"),
        (lambda: run(AlexNet(order="norm"), images(227)), "order 'norm' is unknown"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def run(model, inputs, **kwargs):
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **kwargs), inputs)


def test_another_size_than_at_init_is_named():
    variables = jax.jit(CifarNet().init)(jax.random.key(0), SMALL)
    with pytest.raises(UserError, match=r"fc1: the weights have another shape.*another size"):
        CifarNet().apply(variables, jnp.ones((1, 40, 40, 3)))


def test_captured_layers_are_those_of_the_forward_pass():
    model = CifarResNet(8, width=2)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    logits, seen = model.apply(variables, x, capture=("stage3", "pool_last", "stage1/block1/conv1"))
    assert jax.tree.map(jnp.shape, seen) == {
        **{"stage3": (2, 8, 8, 8), "pool_last": (2, 8), "stage1/block1/conv1": (2, 32, 32, 2)}
    }
    np.testing.assert_allclose(seen["pool_last"], seen["stage3"].mean((1, 2)), rtol=1e-5)
    dense = variables["params"]["linear"]
    np.testing.assert_allclose(
        logits, seen["pool_last"] @ dense["kernel"] + dense["bias"], rtol=1e-5, atol=1e-6
    )
    assert model.apply(variables, x).tolist() == logits.tolist()


def test_googlenet_shows_its_auxiliary_classifiers_in_training_only():
    model = GoogLeNet(auxiliary=True, num_classes=7)
    variables = jax.eval_shape(model.init, jax.random.key(0), images(224))
    apply = functools.partial(model.apply, rngs={"dropout": jax.random.key(0)})
    assert jax.eval_shape(apply, variables, images(224)).shape == (1, 7)
    logits, heads = jax.eval_shape(functools.partial(apply, train=True), variables, images(224))
    assert [out.shape for out in (logits, *heads)] == [(1, 7)] * 3
    summary = summarize(GoogLeNet(auxiliary=True), images(224), train=True)
    for head, parameters in (("4a", 3_188_840), ("4d", 3_190_888)):
        rows = [row for row in summary.rows if row.path.startswith(f"auxiliary{head}")]
        assert sum(row.parameters for row in rows) == parameters


@pytest.mark.parametrize("fields", [{}, {"bottleneck": True}])
def test_a_block_whose_last_scale_is_zero_is_its_shortcut(fields):
    block = ResidualBlock(4, zero_init=True, **fields)
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    y, _ = jax.jit(block.init_with_output)(jax.random.key(1), x)
    np.testing.assert_allclose(y, jax.nn.relu(x))


def test_lenets_codes_are_pictures_and_its_outputs_minus_their_distance():
    assert CODES.shape == (10, 84) and set(CODES.ravel()) == {-1.0, 1.0}
    model, x = LeNet5Original(), jax.random.normal(jax.random.key(0), (2, 32, 32, 1))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    assert set(variables) == {"params"}
    features = model.clone(num_classes=None).apply(variables, x)
    penalty = ((np.asarray(features)[:, None] - CODES) ** 2).sum(-1)
    np.testing.assert_allclose(model.apply(variables, x), -penalty, rtol=1e-5)


def test_shapes_of_the_lectures_tables():
    maps = {row.path: row.shape[1:] for row in counted(AlexNet(), 227).rows}
    expected = {
        **{"conv1": (55, 55, 96), "pool1": (27, 27, 96), "norm1": (27, 27, 96)},
        **{"conv2": (27, 27, 256), "pool2": (13, 13, 256), "norm2": (13, 13, 256)},
        **{"conv3": (13, 13, 384), "conv4": (13, 13, 384), "conv5": (13, 13, 256)},
        **{"pool3": (6, 6, 256), "fc6": (4096,), "fc7": (4096,), "fc8": (1000,)},
    }
    assert {name: maps[name] for name in expected} == expected
    outputs = counted(GoogLeNet()).outputs
    depths = [outputs[f"inception{b}"][-1] for b in ("3a", "3b", "4a", "4b", "4c", "4d", "4e")]
    assert depths == [256, 480, 512, 512, 512, 528, 832]
    assert [outputs[f"inception5{b}"] for b in "ab"] == [(1, 7, 7, 832), (1, 7, 7, 1024)]
    sides = [outputs[name][1] for name in ("conv1", "pool1", "conv2", "pool2", "pool3", "pool4")]
    assert sides == [112, 56, 56, 28, 14, 7]


def test_layers_of_any_model_can_be_captured():
    from nn_lib.analysis import capture
    from nn_lib.models import SequenceClassifier
    from nn_lib.recurrent import RNN, GRUCell

    model, x = SequenceClassifier(RNN(GRUCell(4)), "mean", 3), jnp.ones((2, 5, 2))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    outputs, seen = capture(model, variables, x, names=("layer", "Dense_0"))
    assert seen["layer"][1].shape == (2, 5, 4)
    np.testing.assert_array_equal(seen["Dense_0"], jax.tree.leaves(outputs)[0])
    with pytest.raises(UserError, match="names='lyer' is no layer; did you mean layer"):
        capture(model, variables, x, names=("lyer",))
