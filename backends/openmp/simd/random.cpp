// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/random.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/portable/dispatch.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR

using LongTag = hn::ScalableTag<std::uint64_t>;
using Longs = hn::Vec<LongTag>;

/// Philox4x32-10 of core/random.hpp for as many groups as a vector has 64-bit lanes. Each lane
/// holds one 32-bit word in its lower half; the upper half is garbage that no later step reads.
HWY_INLINE void philox(Longs& word0, Longs& word1, Longs& word2, Longs& word3, std::uint64_t seed) {
  const LongTag longs;
  const WordTag words;
  const auto multiplier0 = hn::BitCast(words, hn::Set(longs, 0xD2511F53u));
  const auto multiplier1 = hn::BitCast(words, hn::Set(longs, 0xCD9E8D57u));
  auto key0 = static_cast<std::uint32_t>(seed);
  auto key1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Longs product0 = hn::MulEven(multiplier0, hn::BitCast(words, word0));
    const Longs product1 = hn::MulEven(multiplier1, hn::BitCast(words, word2));
    word0 = hn::Xor3(hn::ShiftRight<32>(product1), word1, hn::Set(longs, key0));
    word2 = hn::Xor3(hn::ShiftRight<32>(product0), word3, hn::Set(longs, key1));
    word1 = product1;
    word3 = product0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/// Two words of each lane's group side by side.
HWY_INLINE Longs pair(Longs lower, Longs upper) {
  const LongTag longs;
  return hn::Or(hn::And(lower, hn::Set(longs, 0xFFFFFFFFu)), hn::ShiftLeft<32>(upper));
}

/// As symmetric_uniform and the affine map of the portable kernel: rounded at the same places.
HWY_INLINE Floats uniform_of(Longs bits, Floats mean, Floats scale) {
  const FloatTag floats;
  const WordTag words;
  const hn::RebindToSigned<FloatTag> integers;
  const auto upper = hn::BitCast(integers, hn::ShiftRight<8>(hn::BitCast(words, bits)));
  const auto centred = hn::ConvertTo(floats, hn::Sub(upper, hn::Set(integers, 1 << 23)));
  const Floats u = hn::Mul(centred, hn::Set(floats, 0x1p-23F));
  return hn::Add(mean, hn::Mul(scale, u));
}

/// Whole groups of four elements [group, group + count): `count` a multiple of the lanes of Longs.
template <bool kStream, class T>
HWY_INLINE void uniform_groups(const UniformElements& arguments, std::uint64_t group,
                               std::int64_t count, T* out) {
  const LongTag longs;
  const FloatTag floats;
  const std::size_t lanes = hn::Lanes(longs);
  const std::size_t float_lanes = hn::Lanes(floats);
  // Interleaving below joins the even lanes into one vector and the odd lanes into another, block
  // by block of 128 bits. With the groups dealt to the lanes like this, both come out in order.
  HWY_ALIGN std::uint64_t order[hn::MaxLanes(longs)];
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    order[lane] = lane % 2 == 0 ? lane / 2 : lanes / 2 + lane / 2;
  }
  const Longs offsets = hn::Load(longs, order);
  const Longs stream0 = hn::Set(longs, arguments.key.stream & 0xFFFFFFFFu);
  const Longs stream1 = hn::Set(longs, arguments.key.stream >> 32);
  const Floats mean = hn::Set(floats, arguments.mean);
  const Floats scale = hn::Set(floats, arguments.scale);
  for (std::int64_t done = 0; done < count; done += static_cast<std::int64_t>(lanes)) {
    Longs word0 = hn::Add(hn::Set(longs, group + static_cast<std::uint64_t>(done)), offsets);
    Longs word1 = hn::ShiftRight<32>(word0);
    Longs word2 = stream0;
    Longs word3 = stream1;
    philox(word0, word1, word2, word3, arguments.key.seed);
    const Longs first = pair(word0, word1);
    const Longs second = pair(word2, word3);
    T* const to = out + done * 4;
    put<kStream>(uniform_of(hn::InterleaveLower(longs, first, second), mean, scale), to);
    put<kStream>(uniform_of(hn::InterleaveUpper(longs, first, second), mean, scale),
                 to + float_lanes);
  }
}

#endif  // HWY_TARGET != HWY_SCALAR

template <class T>
void uniform_scalar(const UniformElements& arguments, std::uint64_t first, std::int64_t count,
                    T* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float u = symmetric_uniform(arguments.key, first + static_cast<std::uint64_t>(i));
    out[i] = from_float<T>(arguments.mean + arguments.scale * u);
  }
}

template <class T>
void random_uniform_typed(const UniformElements& arguments, T* out, std::uint64_t first,
                          std::int64_t count) {
#if HWY_TARGET == HWY_SCALAR
  uniform_scalar(arguments, first, count, out);
#else
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(LongTag()));
  const std::int64_t head = std::min(count, static_cast<std::int64_t>((4 - first % 4) % 4));
  uniform_scalar(arguments, first, head, out);
  const std::int64_t groups = (count - head) / 4 / lanes * lanes;
  const std::uint64_t first_group = (first + 3) / 4;
  if (arguments.stream && can_stream(out + head)) {
    uniform_groups<true>(arguments, first_group, groups, out + head);
    hwy::FlushStream();
  } else {
    uniform_groups<false>(arguments, first_group, groups, out + head);
  }
  const std::int64_t done = head + groups * 4;
  uniform_scalar(arguments, first + static_cast<std::uint64_t>(done), count - done, out + done);
#endif
}

void random_uniform(const UniformElements& arguments, void* out, std::uint64_t first,
                    std::int64_t count) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    random_uniform_typed(arguments, static_cast<T*>(out), first, count);
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(random_uniform);

void random_uniform(const UniformElements& arguments, void* out, std::uint64_t first,
                    std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(random_uniform)(arguments, out, first, count);
}

}  // namespace portolan::simd
#endif
