"""Keccak-256 as Ethereum uses it (the padding before SHA-3's), and RLP: what a contract's address is derived with.

Plain and slow on purpose: an independent check of the product, which uses a library."""

import hashlib

MASK = (1 << 64) - 1
RATE_BYTES = 136


def round_constants():
    """The 24 constants, from the linear feedback shift register that defines them."""
    constants = []
    register = 1
    for _ in range(24):
        constant = 0
        for exponent in range(7):
            if register & 1:
                constant |= 1 << ((1 << exponent) - 1)
            register <<= 1
            if register & 0x100:
                register ^= 0x171
        constants.append(constant)
    return constants


ROUND_CONSTANTS = round_constants()


def rotate(lane, count):
    count %= 64
    return ((lane << count) | (lane >> (64 - count))) & MASK


def permute(lanes):
    """Keccak-f[1600] over lanes[x][y], in place."""
    for constant in ROUND_CONSTANTS:
        parity = [lanes[x][0] ^ lanes[x][1] ^ lanes[x][2] ^ lanes[x][3] ^ lanes[x][4] for x in range(5)]
        for x in range(5):
            effect = parity[(x + 4) % 5] ^ rotate(parity[(x + 1) % 5], 1)
            for y in range(5):
                lanes[x][y] ^= effect
        x, y = 1, 0
        moving = lanes[x][y]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            moving, lanes[x][y] = lanes[x][y], rotate(moving, (step + 1) * (step + 2) // 2)
        for y in range(5):
            row = [lanes[x][y] for x in range(5)]
            for x in range(5):
                lanes[x][y] = row[x] ^ (~row[(x + 1) % 5] & MASK & row[(x + 2) % 5])
        lanes[0][0] ^= constant


def sponge(message, suffix):
    padded = bytearray(message)
    padded.append(suffix)
    padded.extend(bytes(-len(padded) % RATE_BYTES))
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), RATE_BYTES):
        for index in range(RATE_BYTES // 8):
            offset = start + 8 * index
            lanes[index % 5][index // 5] ^= int.from_bytes(padded[offset:offset + 8], "little")
        permute(lanes)
    return b"".join(lanes[index % 5][index // 5].to_bytes(8, "little") for index in range(4))


def keccak256(message):
    return sponge(message, 0x01)


def rlp(item):
    """Of bytes, of a number, or of a list of these."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, (bytes, bytearray)):
        if len(item) == 1 and item[0] < 0x80:
            return bytes(item)
        return rlp_length(len(item), 0x80) + bytes(item)
    body = b"".join(rlp(part) for part in item)
    return rlp_length(len(body), 0xC0) + body


def rlp_length(length, offset):
    if length < 56:
        return bytes([offset + length])
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(digits)]) + digits


def created_address(sender, nonce):
    """Where a contract goes that this sender creates with this nonce."""
    return "0x" + keccak256(rlp([bytes.fromhex(sender[2:]), nonce]))[12:].hex()


def self_test():
    """Known answers, so that a wrong hash is never taken for a wrong ledger."""
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"
    # The hash of an empty trie, keccak256(rlp(b"")), as every block without transactions shows it.
    assert keccak256(rlp(b"")).hex() == "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
    # The hash of an empty list of uncles.
    assert keccak256(rlp([])).hex() == "1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"
    # Around the borders of a block of input: SHA-3 is the same sponge with another suffix.
    for length in (1, 135, 136, 137, 272, 300):
        message = (bytes(range(256)) * 2)[:length]
        assert sponge(message, 0x06) == hashlib.sha3_256(message).digest()
    # Both forms of RLP lengths.
    assert rlp([b"cat", b"dog"]).hex() == "c88363617483646f67"
    assert rlp(b"Lorem ipsum dolor sit amet, consectetur adipisicing elit").hex().startswith("b8384c6f")
    # Cryptokitties' core contract: a fact of the chain.
    assert created_address("0xba52c75764d6f594735dc735be7f1830cdf58ddf", 3515) == (
        "0x06012c8cf97bead5deae237070f9587f8e7a266d")
