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

/// Calls use(bits, offset) with the random words of the elements [4 * group, 4 * (group + count))
/// in order, a vector of them at a time; `count` a multiple of the lanes of Longs.
template <class Use>
HWY_INLINE void for_words(RandomKey key, std::uint64_t group, std::int64_t count, const Use& use) {
  const LongTag longs;
  const std::size_t lanes = hn::Lanes(longs);
  const auto float_lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  // Interleaving below joins the even lanes into one vector and the odd lanes into another, block
  // by block of 128 bits. With the groups dealt to the lanes like this, both come out in order.
  HWY_ALIGN std::uint64_t order[hn::MaxLanes(longs)];
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    order[lane] = lane % 2 == 0 ? lane / 2 : lanes / 2 + lane / 2;
  }
  const Longs offsets = hn::Load(longs, order);
  const Longs stream0 = hn::Set(longs, key.stream & 0xFFFFFFFFu);
  const Longs stream1 = hn::Set(longs, key.stream >> 32);
  for (std::int64_t done = 0; done < count; done += static_cast<std::int64_t>(lanes)) {
    Longs word0 = hn::Add(hn::Set(longs, group + static_cast<std::uint64_t>(done)), offsets);
    Longs word1 = hn::ShiftRight<32>(word0);
    Longs word2 = stream0;
    Longs word3 = stream1;
    philox(word0, word1, word2, word3, key.seed);
    const Longs first = pair(word0, word1);
    const Longs second = pair(word2, word3);
    use(hn::InterleaveLower(longs, first, second), done * 4);
    use(hn::InterleaveUpper(longs, first, second), done * 4 + float_lanes);
  }
}

/// What of elements [first, first + count) is made of whole vectors of groups.
struct Groups {
  std::int64_t head = 0;  // elements before
  std::uint64_t first = 0;
  std::int64_t count = 0;
};

HWY_INLINE Groups groups_of(std::uint64_t first, std::int64_t count) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(LongTag()));
  const std::int64_t head = std::min(count, static_cast<std::int64_t>((4 - first % 4) % 4));
  return {head, (first + 3) / 4, (count - head) / 4 / lanes * lanes};
}

template <bool kStream, class T>
HWY_INLINE void uniform_groups(const UniformElements& arguments, std::uint64_t group,
                               std::int64_t count, T* out) {
  const Floats mean = hn::Set(FloatTag(), arguments.mean);
  const Floats scale = hn::Set(FloatTag(), arguments.scale);
  for_words(arguments.key, group, count, [&](Longs bits, std::int64_t offset) HWY_ATTR {
    put<kStream>(uniform_of(bits, mean, scale), out + offset);
  });
}

template <class T>
HWY_INLINE void dropout_groups(const DropoutElements& arguments, std::uint64_t group,
                               std::int64_t count, T* x) {
  const FloatTag floats;
  const WordTag words;
  const Words threshold = hn::Set(words, arguments.threshold);
  const Floats kept = hn::Set(floats, arguments.kept);
  for_words(arguments.key, group, count, [&](Longs bits, std::int64_t offset) HWY_ATTR {
    const auto dropped = hn::RebindMask(floats, hn::Lt(hn::BitCast(words, bits), threshold));
    store(hn::IfThenZeroElse(dropped, hn::Mul(load(x + offset), kept)), x + offset);
  });
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
  const Groups groups = groups_of(first, count);
  uniform_scalar(arguments, first, groups.head, out);
  T* const whole = out + groups.head;
  if (arguments.stream && can_stream(whole)) {
    uniform_groups<true>(arguments, groups.first, groups.count, whole);
    hwy::FlushStream();
  } else {
    uniform_groups<false>(arguments, groups.first, groups.count, whole);
  }
  const std::int64_t done = groups.head + groups.count * 4;
  uniform_scalar(arguments, first + static_cast<std::uint64_t>(done), count - done, out + done);
#endif
}

template <class T>
void dropout_scalar(const DropoutElements& arguments, std::uint64_t first, std::int64_t count,
                    T* x) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t index = first + static_cast<std::uint64_t>(i);
    const std::uint32_t word = random_words(arguments.key, index / 4)[index % 4];
    x[i] = from_float<T>(word < arguments.threshold ? 0.0F : to_float(x[i]) * arguments.kept);
  }
}

template <class T>
void dropout_typed(const DropoutElements& arguments, T* x, std::uint64_t first,
                   std::int64_t count) {
#if HWY_TARGET == HWY_SCALAR
  dropout_scalar(arguments, first, count, x);
#else
  const Groups groups = groups_of(first, count);
  dropout_scalar(arguments, first, groups.head, x);
  dropout_groups(arguments, groups.first, groups.count, x + groups.head);
  const std::int64_t done = groups.head + groups.count * 4;
  dropout_scalar(arguments, first + static_cast<std::uint64_t>(done), count - done, x + done);
#endif
}

void dropout(const DropoutElements& arguments, void* x, std::uint64_t first, std::int64_t count) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dropout_typed(arguments, static_cast<T*>(x), first, count);
  });
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
HWY_EXPORT(dropout);

void random_uniform(const UniformElements& arguments, void* out, std::uint64_t first,
                    std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(random_uniform)(arguments, out, first, count);
}

void dropout(const DropoutElements& arguments, void* x, std::uint64_t first, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(dropout)(arguments, x, first, count);
}

}  // namespace portolan::simd
#endif
