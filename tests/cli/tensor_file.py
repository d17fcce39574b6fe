# SPDX-License-Identifier: Apache-2.0
"""Safetensors files for tests: whole files in, whole files out."""
import json
import struct

CODES = {"F32": "f", "I64": "q", "I32": "i", "U8": "B", "BOOL": "B", "F64": "d", "BF16": "H", "F16": "e"}


def read_tensors(path):
    """{name: (dtype, shape, values)}; BF16 as the integers of its bits."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        code = CODES[entry["dtype"]]
        values = struct.unpack(f"<{(end - begin) // struct.calcsize(code)}{code}", data[begin:end])
        tensors[name] = (entry["dtype"], entry["shape"], values)
    return tensors


def read_tensor(path, name):
    _, shape, values = read_tensors(path)[name]
    return shape, values


def write_tensors(path, tensors):
    """The inverse of read_tensors."""
    header, data = {}, b""
    for name, (dtype, shape, values) in tensors.items():
        packed = struct.pack(f"<{len(values)}{CODES[dtype]}", *values)
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
