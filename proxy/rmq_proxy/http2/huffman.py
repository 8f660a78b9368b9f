"""HPACK's Huffman code (RFC 7541, appendix B), decoded a byte at a time.

The code is canonical: codes of one length count upwards in the order of their symbols, so lengths are all one needs.
"""

from typing import Final

EOS: Final = 256
# fmt: off
_BY_LENGTH: Final = {
    5: [*b"012aceiost"],
    6: [*b" %-./3456789=A_bdfghlmnpru"],
    7: [*b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"],
    8: [*b"&*,;XZ"],
    10: [*b'!"()?'],
    11: [*b"'+|"],
    12: [*b"#>"],
    13: [0, *b"$@[]~"],
    14: [*b"^}"],
    15: [*b"<`{"],
    19: [92, 195, 208],
    20: [128, 130, 131, 162, 184, 194, 224, 226],
    21: [153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230],
    22: [129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189,
        190, 196, 198, 228, 232, 233],
    23: [1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175,
        180, 182, 183, 188, 191, 197, 231, 239],
    24: [9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237],
    25: [199, 207, 234, 235],
    26: [192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255],
    27: [203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254],
    28: [*range(2, 9), 11, 12, *range(14, 22), *range(23, 32), 127, 220, 249],
    30: [10, 13, 22, EOS],
}
# fmt: on


class _State(dict["int", "tuple[_State, str]"]):
    """A node of the code's tree, as what each next byte does there: the next state, and the symbols on the way.

    Steps are found when they are first met, since ordinary text needs some hundreds of the 65,536.
    """

    __slots__ = ("_huffman", "node")

    def __init__(self, huffman: "Huffman", node: int) -> None:
        super().__init__()
        self._huffman = huffman
        self.node = node

    def __missing__(self, octet: int) -> "tuple[_State, str]":
        step = self[octet] = self._huffman.step(self.node, octet)
        return step


class Huffman:
    """One decoder for the process. With every step known it holds about 7 MB."""

    def __init__(self) -> None:
        self._nodes: list[list[int]] = [[0, 0]]  # per inner node its two children: a node, or ~symbol; 0: none
        for length, symbols, code in _codes():
            for offset, symbol in enumerate(symbols):
                self._plant(code + offset, length, symbol)
        self._states = [_State(self, node) for node in range(len(self._nodes))]
        self._ends = self._padding_nodes()

    def decode(self, data: bytes) -> str:
        """Raises ValueError where `data` is no Huffman text: EOS inside, or padding that is not the start of EOS."""
        state = self._states[0]
        pieces = []
        for octet in data:
            state, piece = state[octet]
            pieces.append(piece)
        if state.node not in self._ends:
            raise ValueError("a Huffman text ends in the middle of a symbol")
        return "".join(pieces)

    def step(self, node: int, octet: int) -> tuple[_State, str]:
        """Where `octet` leads from `node`, and the symbols that end on the way. Raises ValueError at the end mark."""
        symbols = []
        for shift in range(7, -1, -1):
            node = self._nodes[node][octet >> shift & 1]
            if node < 0:
                symbols.append(~node)
                node = 0
        if EOS in symbols:
            raise ValueError("a Huffman text contains the end mark")
        return self._states[node], "".join(map(chr, symbols))

    def _plant(self, code: int, length: int, symbol: int) -> None:
        node = 0
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            if not self._nodes[node][bit]:
                self._nodes.append([0, 0])
                self._nodes[node][bit] = len(self._nodes) - 1
            node = self._nodes[node][bit]
        self._nodes[node][code & 1] = ~symbol

    def _padding_nodes(self) -> set[int]:
        """Where a text may end: after a symbol, or up to seven ones later."""
        node, nodes = 0, {0}
        for _ in range(7):
            node = self._nodes[node][1]
            nodes.add(node)
        return nodes


def _codes() -> list[tuple[int, list[int], int]]:
    """Length, symbols and the first symbol's code, for each length."""
    rows, code, before = [], 0, 0
    for length, symbols in _BY_LENGTH.items():
        code <<= length - before
        rows.append((length, symbols, code))
        code += len(symbols)
        before = length
    return rows
