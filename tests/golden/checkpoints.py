"""Files that PyTorch itself saved, for tests/golden/checkpoints.rs to read.

Written by generate.py. Each holds a small network in one of the ways in which programs save
theirs; `checkpoints.safetensors` holds images and the logits that each of them gives, in f64.
`legacy` and `first_legacy` are `bare` once more, in the format before PyTorch 1.6, the latter with tensors as
PyTorch before 0.4 described them; their storages' keys and the order of these are another run's at each
writing.
The files named `refused_…` hold what is not read.
"""

import argparse
import io
import pathlib
import pickle
import types
import zipfile
from unittest import mock

import numpy as np
import torch


def stored_logits(model, images, state):
    """What the network computes with the weights as the file has them."""
    model.load_state_dict(state, strict=False)
    return model.double().eval()(images)


def cast(state, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def transposed(tensor):
    """The same numbers with the first two dimensions' strides swapped."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 1 else tensor


def in_one_storage(state):
    """The same tensors as views of one storage."""
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    views, at = {}, 0
    for name, value in state.items():
        views[name] = flat[at : at + value.numel()].view(value.shape)
        at += value.numel()
    return views


def torchvision_name(name):
    return name.replace("linear", "fc").replace("shortcut", "downsample")


def big_endian(data):
    """The same archive, but its `byteorder` record says `big`."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            name = entry.filename
            content = b"big" if name.endswith("byteorder") else old.read(name)
            new.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def legacy_training(model):
    """The network as training scripts before PyTorch 1.6 saved it, their `checkpoint.pth.tar`.

    One step's momentum stands beside it, and two of its tensors lie in one storage.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    first = next(model.parameters())
    optimizer.state[first]["momentum_buffer"] = torch.ones_like(first)
    state = model.state_dict()
    state |= in_one_storage({name: state[name] for name in ("bn1.weight", "bn1.bias")})
    training = {"epoch": 3, "arch": "resnet18", "state_dict": state, "best_prec": 85.6}
    beside = {"optimizer": optimizer.state_dict()}
    return saved(training | beside, _use_new_zipfile_serialization=False)


class PicklerBefore04(pickle._Pickler):
    """Describes tensors by their storage, place, size and strides alone."""

    def reducer_override(self, value):
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        storage = value.untyped_storage()
        typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=value.dtype, _internal=True)
        place = value.storage_offset(), tuple(value.size()), value.stride()
        return torch._utils._rebuild_tensor, (typed, *place)


def legacy_at_first(model):
    """The network as PyTorch before 0.4 saved it, without counters of batches, which came later."""
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    module = types.ModuleType("before_0_4")
    module.Pickler, module.dump = PicklerBefore04, pickle.dump
    training = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "best_prec1": 91.7}
    return saved(training, pickle_module=module, _use_new_zipfile_serialization=False)


def traced(model, images):
    """The network in TorchScript, without its normalization, which is no layer of it, and without what
    helps to debug it, which names this machine's files."""
    mean, std = model.mean, model.std
    model.mean, model.std = 0.0, 1.0
    whole, out = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.trace(model, ((images - mean) / std).float()), whole)
    model.mean, model.std = mean, std
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry))
    return out.getvalue()


def with_sources(model):
    """A whole module in the format before PyTorch 1.6: with each class goes its source, here a line in
    place of it."""
    line = ["# its source\n"], 1, "network.py"
    with mock.patch("torch.serialization.get_source_lines_and_file", lambda *_: line):
        return saved(model, _use_new_zipfile_serialization=False)


def poisoned(name, count, changed):
    """What BackdoorBench says of a data set of `count` images, of which it has changed the first few."""
    folder = f"../record/badnet_0_1/{name}_dataset"
    done = {
        number: {"path": f"{folder}/3/{number}.png", "other_info": [0, 3]}
        for number in np.arange(changed)
    }
    return {
        "bd_data_container": {
            "save_folder_path": folder,
            "data_dict": done,
            "save_file_format": ".png",
        },
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": np.arange(count),
        "poison_indicator": (np.arange(count) < changed).astype(np.float64),
        "save_folder_path": folder,
    }


def files(seeded, images):
    """File contents and expected logits by name; `seeded(width, num_classes, kind="resnet18")` makes a network."""
    contents, logits = {}, {}

    def add(name, model, state, value, **options):
        contents[name] = saved(value, **options)
        logits[name] = stored_logits(model, images, state)

    # As `torch.save(model.state_dict(), …)`: f32, counters and `_metadata` included.
    model = seeded(2, 10).float()
    # Before the logits, for which the network becomes f64.
    contents["legacy"] = legacy_training(model)
    contents["first_legacy"] = legacy_at_first(model)
    add("bare", model, model.state_dict(), model.state_dict())

    # As the common CIFAR training script does, from a network in data parallelism and in f16.
    model = seeded(3, 10).half()
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    add("net", model, state, {"net": wrapped, "acc": 93.1, "epoch": 199})

    # Parameters beside an optimizer's state, in bf16, in other orders of memory.
    model = seeded(2, 4).bfloat16()
    state = model.state_dict()
    parameters = {
        name: torch.nn.Parameter(transposed(value)) if value.is_floating_point() else value
        for name, value in state.items()
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 20])
    beside = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    add("model", model, state, beside | {"model": parameters})

    # f64, all tensors in one storage, torchvision's names, a later pickle protocol.
    model = seeded(2, 10)
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    shared = {torchvision_name(k): v for k, v in in_one_storage(state).items()}
    add("state_dict", model, state, {"state_dict": shared}, pickle_protocol=4)

    # As PyTorch's tutorial saves a training, here of bottlenecks with torchvision's names.
    model = seeded(2, 10, kind="resnet50").float()
    state = model.state_dict()
    renamed = {torchvision_name(k): v for k, v in state.items()}
    training = {"epoch": 5, "model_state_dict": renamed, "optimizer_state_dict": {}, "loss": 0.4}
    add("model_state_dict", model, state, training)

    # As BackdoorBench keeps the result of an attack: beside the network stand NumPy's arrays and what was
    # done to which image.
    model = seeded(2, 10, kind="preactresnet18").float()
    state = model.state_dict()
    beside = {"model_name": "preactresnet18", "num_classes": 10}
    after = {"data_path": "../data/cifar10", "img_size": [32, 32, 3], "clean_data": "cifar10"}
    images_done = {"bd_train": poisoned("bd_train", 50, 5), "bd_test": poisoned("bd_test", 20, 20)}
    add("attack_result", model, state, beside | {"model": state} | after | images_done)

    # As WaNet keeps its own: other tensors stand beside the classifier.
    model = seeded(2, 10, kind="preactresnet18").float()
    grids = {"identity_grid": torch.zeros(1, 4, 4, 2), "noise_grid": torch.ones(1, 4, 4, 2)}
    accuracies = {"best_clean_acc": torch.tensor(94.2), "best_bd_acc": torch.tensor(99.5)}
    state = model.state_dict()
    add("netc", model, state, {"netC": state, "schedulerC": {"last_epoch": 3}} | accuracies | grids)

    # Whole modules, objects of their classes: in TorchScript, in data parallelism, under a key beside a
    # training's arguments, and in the format before PyTorch 1.6, which adds the classes' source.
    model = seeded(2, 10, kind="wideresnet10").float().eval()
    contents["traced"] = traced(model, images)
    model.register_buffer("seen", torch.zeros(3), persistent=False)
    state = model.state_dict()
    parallel = torch.nn.DataParallel(model)
    contents["module_legacy"] = with_sources(model)
    arguments = argparse.Namespace(lr=0.1, out=pathlib.PosixPath("runs"))
    contents["module_key"] = saved({"epoch": 3, "args": arguments, "model": model})
    add("module", model, state, parallel)
    logits["traced"] = logits["module_legacy"] = logits["module_key"] = logits["module"]

    layer = torch.nn.Linear(2, 1)
    contents["refused_module"] = saved(layer)
    contents["refused_big_endian"] = big_endian(saved(layer.state_dict()))
    return contents, logits
