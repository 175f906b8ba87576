"""Encoders of fewer bits for a refresh on a CPU: passages a second, and what of the float index their index finds.

    python -m benchmarks precision [--model FOLDER] [--run RUN] [--threads 1] [--lengths 32 128 288] [--rows 1000]
                                   [--rounds 5] [--json FILE] [--quick]

All compute the same pooled vectors with the same weights: float32 and bfloat16 (autocast) as realm embeds; "int8
products", linear layers in eight bits through torch's own integer product, a scale for each row of what comes in; and,
where they are installed, ONNX Runtime (dynamic quantisation, a scale for each output) and OpenVINO (bfloat16; weights
of eight bits with dynamic quantisation of what comes in, by nncf). Their conversion is not counted, which a refresh
would pay each time, its parameters being new. torch.ao.quantization is deprecated and takes no part.

Times are of the processor with one thread, so that neighbours count little, else of the clock. With --run, a
pre-training run, and --model, its passages are embedded, and sentences of its probe ask with float vectors: the share
of the float index's first k that the other index has among its first k.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.core import made
from realm.models.encoders import DenseEncoder
from realm.search.embed import BATCH_TOKENS, length_batches
from realm.types import Tokens

KS = (5, 20, 64)
Encode = Callable[[Tokens], Tensor]


class Int8Linear(nn.Module):
    """y = x W' + b in eight bits: a scale for each output of W and for each row of x, of its largest number."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        self.weight = (weight / self.scale[:, None]).round().to(torch.int8).t().contiguous()
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).float()
        scale = flat.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        product = torch._int_mm((flat / scale).round_().to(torch.int8), self.weight)
        return torch.addcmul(self.bias, product * scale, self.scale).view(*x.shape[:-1], -1).to(x.dtype)


def in_eight_bits(encoder: DenseEncoder) -> Encode:
    def replace(module: nn.Module) -> None:
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
            else:
                replace(child)

    copy = deepcopy(encoder)
    for tower in copy.towers():
        replace(tower.backbone)
    return copy.encode_passages


def in_bfloat16(encoder: DenseEncoder) -> Encode:
    def encode(tokens: Tokens) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return encoder.encode_passages(tokens)

    return encode


class Pooled(nn.Module):
    """What an export takes: a backbone, the mean over its tokens, length 1."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def exported(encoder: DenseEncoder, folder: Path) -> Path:
    path = folder / "model.onnx"
    if not path.exists():
        ids = torch.randint(5, 1000, (2, 16))
        axes = {"input_ids": {0: "n", 1: "l"}, "attention_mask": {0: "n", 1: "l"}, "vector": {0: "n"}}
        torch.onnx.export(
            Pooled(encoder.query_tower.backbone),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["vector"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return path


def onnx_runtime(encoder: DenseEncoder, folder: Path, threads: int) -> Encode:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = folder / "int8.onnx"
    quantize_dynamic(
        str(exported(encoder, folder)), str(small), weight_type=QuantType.QInt8, per_channel=True,
        op_types_to_quantize=["MatMul"],
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(small), options, providers=["CPUExecutionProvider"])

    def encode(tokens: Tokens) -> Tensor:
        given = {"input_ids": tokens.ids.numpy(), "attention_mask": tokens.mask.long().numpy()}
        return torch.from_numpy(session.run(["vector"], given)[0])

    return encode


def openvino(encoder: DenseEncoder, folder: Path, threads: int, bits: int) -> Encode:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(exported(encoder, folder)))
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    if bits == 8:
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "64"
    else:
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def encode(tokens: Tokens) -> Tensor:
        given = {0: tokens.ids.numpy(), 1: tokens.mask.long().numpy()}
        return torch.from_numpy(request.infer(given)[0].copy())

    return encode


def everybody(encoder: DenseEncoder, folder: Path, threads: int) -> dict[str, Encode]:
    makers: dict[str, Callable[[], Encode]] = {
        "float32": lambda: encoder.encode_passages,
        "bfloat16": lambda: in_bfloat16(encoder),
        "int8 products": lambda: in_eight_bits(encoder),
        "ONNX Runtime int8": lambda: onnx_runtime(encoder, folder, threads),
        "OpenVINO bfloat16": lambda: openvino(encoder, folder, threads, 16),
        "OpenVINO int8": lambda: openvino(encoder, folder, threads, 8),
    }
    found = {}
    for who, make in makers.items():
        try:
            found[who] = make()
        except ImportError as error:
            print(f"{who}: {error}")
    return found


def speeds(who: dict[str, Encode], length: int, tokens: int, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Passages a second of texts of one length, `tokens` of them at a time, and how many times float32's."""
    count = max(1, tokens // length)
    ids = torch.randint(1000, 20_000, (count, length), generator=torch.Generator().manual_seed(length))
    batch = Tokens(ids, torch.zeros_like(ids), torch.full((count,), length))
    seconds: dict[str, list[float]] = {name: [] for name in who}
    for turn in range(rounds + 1):
        for name, encode in who.items():
            began = clock()
            encode(batch)
            if turn:  # the first one warms up
                seconds[name].append(clock() - began)
    rates = {name: count / statistics.median(taken) for name, taken in seconds.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds["float32"], taken, strict=True))
        for name, taken in seconds.items()
    }
    for name in who:
        print(f"{length:4d} tokens  {name:18s} {rates[name]:8.1f} passages/s  {ratios[name]:.2f} times float32")
    return {"passages a second": rates, "times float32": ratios}


def recall(who: dict[str, Encode], encoder: DenseEncoder, run: Path, rows: int, max_tokens: int) -> dict[str, Any]:
    from benchmarks.suites.partial import Judged
    from realm.workflows.run import Run

    judged = Judged(Run(run), limit=500)
    chosen = torch.randperm(len(judged.snapshot), generator=torch.Generator().manual_seed(0))[:rows].sort().values
    lengths = judged.snapshot.passage_lengths(max_tokens)[chosen.numpy()]
    query_BD = encoder.encode_queries(judged.judging.query)
    found: dict[str, Any] = {}
    best_BK: Tensor | None = None
    for name, encode in who.items():
        vector_ND = torch.empty(len(chosen), encoder.dim)
        for batch in length_batches(lengths, BATCH_TOKENS):
            at = torch.from_numpy(batch)
            vector_ND[at] = encode(judged.snapshot.passages(chosen[at], max_tokens)).float()
        rows_BK = (query_BD @ vector_ND.T).topk(min(max(KS), rows), 1).indices
        best_BK = rows_BK if best_BK is None else best_BK
        found[name] = {k: float((rows_BK[:, :k, None] == best_BK[:, None, :k]).any(-1).float().mean()) for k in KS}
        print(f"{name:18s} " + ", ".join(f"recall@{k} {value:.4f}" for k, value in found[name].items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a sentence encoder; random weights of MiniLM's size if not given")
    parser.add_argument("--run", type=Path, help="a pre-training run: its passages and its probe, for recall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 288])
    parser.add_argument("--tokens", type=int, default=BATCH_TOKENS, help="of a batch")
    parser.add_argument("--rows", type=int, default=1000, help="passages, for recall")
    parser.add_argument("--max-tokens", type=int, default=128, help="of such a passage")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.run is not None and options.model is None:
        parser.error("--run needs --model: random weights have no passages of their own")
    if options.quick:
        options.lengths, options.tokens, options.rounds, options.rows = [16], 64, 1, 50
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    with tempfile.TemporaryDirectory() as name, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        layers, hidden = (1, 32) if options.quick and options.model is None else (6, 384)
        model = options.model or made.model(Path(name) / "made", layers=layers, hidden=hidden, vocabulary=20_200)
        encoder = DenseEncoder.from_pretrained(model, dim=None, pooling="mean", normalize="l2", segments=False).eval()
        with torch.inference_mode(False), torch.no_grad():
            who = everybody(encoder, Path(name), options.threads)
        told: dict[str, Any] = {"threads": options.threads, "model": options.model and options.model.name}
        for length in options.lengths:
            told[f"{length} tokens"] = speeds(who, length, options.tokens, options.rounds, clock)
        if options.run is not None:
            told["recall"] = recall(who, encoder, options.run, options.rows, options.max_tokens)
    if options.json is not None:
        with suppress(FileExistsError):
            options.json.parent.mkdir(parents=True)
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
