"""What numba's passes do with one number, as instructions on 32 bits.

numba works on 64 bits where it can, and compiles long for each step of its own. Here nothing is
fused and nothing is reordered, so that the bits are those of the reference.
"""

from collections.abc import Callable

import numpy as np
from llvmlite.binding import get_host_cpu_features
from llvmlite.ir import Constant, FloatType, HalfType, IntType, IRBuilder, Value
from numba import config
from numba.core import types
from numba.extending import intrinsic

from esft.engine.noise import CUBIC, MEAN_BYTE_SUM, MIX_1, MIX_2, STRIDE, UNIT

_I8, _I16, _I32, _F32 = IntType(8), IntType(16), IntType(32), FloatType()
_ZERO = Constant(_F32, 0.0)
u32, f32 = types.uint32, types.float32

# One instruction instead of ten, exact like all conversions to more bits. Not where numba is told
# to compile for another processor, which may lack it.
_CONVERTS_HALVES = not (config.CPU_NAME or config.CPU_FEATURES) and (
    get_host_cpu_features().get("f16c", False)
)


def _element(result: types.Type, *arguments: types.Type) -> Callable:
    """Make a function for numba of one that emits the instructions for given operands."""

    def made(emit: Callable[..., Value]) -> Callable:
        def typed():
            return result(*arguments), lambda _, builder, signature, args: emit(builder, *args)

        # numba looks at how many arguments there are.
        function = {
            1: lambda _, a: typed(),
            2: lambda _, a, b: typed(),
            3: lambda _, a, b, c: typed(),
        }
        function = function[len(arguments)]
        function.__name__ = emit.__name__
        return intrinsic(function)

    return made


def _int(value: int) -> Constant:
    return Constant(_I32, value)


@_element(u32, u32, types.int64, types.int64)
def counted(b: IRBuilder, x: Value, start: Value, at: Value) -> Value:
    """x + (start + at) * STRIDE, in 32 bits: the hash's counter of an element."""
    return b.add(x, b.mul(b.trunc(b.add(start, at), _I32), _int(STRIDE)))


@_element(u32, u32, u32)
def hashed(b: IRBuilder, x: Value, key: Value) -> Value:
    """The bits of a counter; see `noise.random_bits`."""
    x = b.mul(b.xor(x, b.lshr(x, _int(16))), _int(MIX_1))
    x = b.xor(x, key)
    x = b.mul(b.xor(x, b.lshr(x, _int(15))), _int(MIX_2))
    return b.xor(x, b.lshr(x, _int(16)))


@_element(f32, u32)
def normal(b: IRBuilder, bits: Value) -> Value:
    """The noise of hashed bits; see `noise.noise`."""
    pairs = b.add(b.and_(bits, _int(0xFF00FF)), b.and_(b.lshr(bits, _int(8)), _int(0xFF00FF)))
    total = b.and_(b.add(pairs, b.lshr(pairs, _int(16))), _int(0xFFFF))
    y = b.sub(total, _int(MEAN_BYTE_SUM))
    cubic = b.mul(y, b.add(b.mul(y, y), _int(CUBIC)))
    return b.fmul(b.sitofp(cubic, _F32), Constant(_F32, float(np.float32(UNIT))))


@_element(f32, f32, f32)
def composed(b: IRBuilder, base: Value, drift: Value) -> Value:
    """base + drift, with the sign that `reference.composed` gives a zero."""
    return b.fsub(base, b.fadd(b.fneg(drift), _ZERO))


@_element(u32, f32)
def magnitude(b: IRBuilder, value: Value) -> Value:
    """The bits of |value|."""
    return b.and_(b.bitcast(value, _I32), _int(0x7FFFFFFF))


@_element(f32, u32)
def of_bits(b: IRBuilder, bits: Value) -> Value:
    """The float32 that has these bits."""
    return b.bitcast(bits, _F32)


@_element(f32, f32, f32)
def shrunk(b: IRBuilder, value: Value, pull: Value) -> Value:
    """sign(value) * max(|value| - pull, 0); see `reference.decay_`."""
    bits = b.bitcast(value, _I32)
    rest = b.fsub(b.bitcast(b.and_(bits, _int(0x7FFFFFFF)), _F32), pull)
    rest = b.select(b.fcmp_ordered("<", rest, _ZERO), _ZERO, rest)
    # A rest of -0.0 there is none, but NaN may have a sign.
    rest = b.and_(b.bitcast(rest, _I32), _int(0x7FFFFFFF))
    return b.bitcast(b.or_(rest, b.and_(bits, _int(0x80000000))), _F32)


def _of_bfloat16(b: IRBuilder, half: Value) -> Value:
    """The float32 of bfloat16 bits: its upper half."""
    return b.bitcast(b.shl(b.zext(half, _I32), _int(16)), _F32)


def _bfloat16(b: IRBuilder, value: Value) -> Value:
    """The bits of the nearest bfloat16, half to even; NaN stays NaN."""
    bits = b.bitcast(value, _I32)
    even = b.add(b.and_(b.lshr(bits, _int(16)), _int(1)), _int(0x7FFF))
    rounded = b.lshr(b.add(bits, even), _int(16))
    nan = b.fcmp_unordered("uno", value, value)
    return b.trunc(b.select(nan, _int(0x7FC0), rounded), _I16)


def _of_float16(b: IRBuilder, half: Value) -> Value:
    """The float32 of float16 bits."""
    if _CONVERTS_HALVES:
        return b.fpext(b.bitcast(half, HalfType()), _F32)
    bits = b.zext(half, _I32)
    part = b.and_(bits, _int(0x7FFF))
    # As the lower bits of a float32 it is 2**112 times too small, subnormal or not.
    number = b.fmul(b.bitcast(b.shl(part, _int(13)), _F32), Constant(_F32, 2.0**112))
    special = b.icmp_unsigned(">=", part, _int(0x7C00))  # infinite, or NaN with its mantissa
    whole = b.or_(b.bitcast(number, _I32), b.select(special, _int(0x7F800000), _int(0)))
    sign = b.shl(b.and_(bits, _int(0x8000)), _int(16))
    return b.bitcast(b.or_(whole, sign), _F32)


def _float16(b: IRBuilder, value: Value) -> Value:
    """The bits of the nearest float16, half to even; NaN stays NaN."""
    bits = b.bitcast(value, _I32)
    part = b.and_(bits, _int(0x7FFFFFFF))
    # From 2**-14 on: 112 less in the exponent, 13 bits of the mantissa rounded away.
    even = b.add(b.and_(b.lshr(part, _int(13)), _int(1)), _int(0xFFF))
    normal = b.lshr(b.sub(b.add(part, even), _int(112 << 23)), _int(13))
    # Below, a sum with 0.5 is rounded at 2**-24, the step of the subnormals.
    shifted = b.fadd(b.bitcast(part, _F32), Constant(_F32, 0.5))
    small = b.sub(b.bitcast(shifted, _I32), _int(0x3F000000))
    half = b.select(b.icmp_unsigned("<", part, _int(113 << 23)), small, normal)
    half = b.select(b.icmp_unsigned(">=", part, _int(143 << 23)), _int(0x7C00), half)
    half = b.select(b.fcmp_unordered("uno", value, value), _int(0x7E00), half)
    return b.trunc(b.or_(half, b.and_(b.lshr(bits, _int(16)), _int(0x8000))), _I16)


@_element(f32, u32)
def unit(b: IRBuilder, bits: Value) -> Value:
    """A number in 0 to 1, 1 excluded, of the upper 24 bits."""
    return b.fmul(b.uitofp(b.lshr(bits, _int(8)), _F32), Constant(_F32, 2.0**-24))


@_element(f32, types.uint8)
def lower(b: IRBuilder, byte: Value) -> Value:
    """The number in the lower four bits."""
    return b.uitofp(b.and_(b.zext(byte, _I32), _int(15)), _F32)


@_element(f32, types.uint8)
def upper(b: IRBuilder, byte: Value) -> Value:
    """The number in the upper four bits."""
    return b.uitofp(b.lshr(b.zext(byte, _I32), _int(4)), _F32)


@_element(types.uint8, f32, f32)
def paired(b: IRBuilder, first: Value, second: Value) -> Value:
    """The byte of two numbers of four bits, the first in the lower ones."""
    first, second = b.fptosi(first, _I32), b.fptosi(second, _I32)
    return b.trunc(b.or_(first, b.shl(second, _int(4))), _I8)


@intrinsic
def to_code(context, value, array):
    """A whole float32 as an element of `array`, which has one code a byte."""

    def emit(_, b, signature, args):
        return b.trunc(b.fptosi(args[0], _I32), _I8)

    return array.dtype(f32, array), emit


_NUMBERS = {
    types.float32: lambda b, value: value,
    types.uint16: _of_bfloat16,
    types.int16: _of_float16,
    types.int8: lambda b, value: b.sitofp(value, _F32),
    types.uint8: lambda b, value: b.uitofp(value, _F32),  # of packed codes it is not asked
}
_ROUNDED = {types.float32: lambda b, value: value, types.uint16: _bfloat16, types.int16: _float16}


@intrinsic
def number(context, value):
    """The float32 of an element: uint16 are the bits of bfloat16, int16 those of float16."""
    emit = _NUMBERS[value]
    return f32(value), lambda _, builder, signature, args: emit(builder, *args)


@intrinsic
def rounded(context, value, array):
    """A float32 as an element of `array`, see `number`: the nearest, half to even."""
    emit = _ROUNDED[array.dtype]
    return array.dtype(f32, array), lambda _, builder, signature, args: emit(builder, args[0])


@_element(f32, f32, u32)
def chanced(b: IRBuilder, value: Value, chance: Value) -> Value:
    """The value with 10 bits of mantissa, up or down by chance; see `kept.KeptDrift.write`."""
    bits = b.add(b.bitcast(value, _I32), b.and_(chance, _int(0x1FFF)))
    return b.bitcast(b.and_(bits, _int(0xFFFFE000)), _F32)


@_element(types.int8, f32, u32)
def coded(b: IRBuilder, share: Value, chance: Value) -> Value:
    """The code of a whole number of 2**-23 of a step, up or down by chance."""
    drawn = b.add(b.fptosi(share, _I32), b.and_(chance, _int(0x7FFFFF)))
    return b.trunc(b.ashr(drawn, _int(23)), _I8)
