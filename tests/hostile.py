"""Files that were changed by somebody who means harm, or by a broken disk."""

import copy
import io
import json
import struct
import zipfile

from hypothesis import strategies as st

ABSURD = (0, -1, 2**31, 2**63, 10**18, 10**30)
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.text(max_size=5), st.sampled_from(ABSURD)),
    *(
        st.floats(),
        st.just([]),
        st.just({}),
        st.just([[[]]]),
        st.just({"a": {"b": None}}),
    ),
)


@st.composite
def changed_bytes(draw, data):
    """Some places of a file overwritten, cut out, doubled, or all behind one cut off."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from((1, 2, 4, 8, 64)))
        what = draw(st.sampled_from(("over", "out", "double", "end", "number")))
        if what == "over":
            data = (
                data[:at]
                + draw(st.binary(min_size=1, max_size=8))
                + data[at + length :]
            )
        elif what == "out":
            data = data[:at] + data[at + length :]
        elif what == "double":
            data = data[: at + length] + data[at:]
        elif what == "end":
            data = data[:at]
        else:
            number = draw(st.sampled_from(ABSURD)) % 2**64
            data = data[:at] + struct.pack("<Q", number) + data[at + 8 :]
    return data


@st.composite
def changed_zip(draw, data):
    """A member changed, renamed, left out or emptied, in an archive that is in order."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {e.filename: archive.read(e) for e in archive.infolist()}
    name = draw(st.sampled_from(sorted(members)))
    what = draw(st.sampled_from(("bytes", "bytes", "bytes", "name", "out", "header")))
    if what == "bytes":
        members[name] = draw(changed_bytes(members[name]))
    elif what == "header":  # what an array says of itself
        number = str(draw(st.sampled_from(ABSURD))).encode()
        members[name] = members[name].replace(b"(", b"(" + number + b", ", 1)
    else:
        content = members.pop(name)
        if what == "name":
            bad = ("../../up", "/absolute", "a/../../b", "CON", "x" * 300, "train.npy")
            members[draw(st.sampled_from(bad))] = content
    packed = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(out, "w", packed) as archive:
        for key, content in members.items():
            archive.writestr(key, content)
    return out.getvalue()


@st.composite
def changed_value(draw, value):
    """One value somewhere in it replaced, removed, or put in twice as deep."""
    places = list(_places(value))
    path = draw(st.sampled_from(places))
    value = copy.deepcopy(value)
    if not path:
        return draw(VALUES)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    if draw(st.booleans()):
        inside[path[-1]] = draw(VALUES)
    else:
        del inside[path[-1]]
    return value


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inside in items:
        yield from _places(inside, (*path, key))


@st.composite
def changed_safetensors(draw, data):
    """Its bytes changed, or the description in its header."""
    if draw(st.booleans()):
        return draw(changed_bytes(data))
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["pyro_vae_zoo"])
    config = draw(changed_value(config))
    header["__metadata__"]["pyro_vae_zoo"] = json.dumps(config)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]
