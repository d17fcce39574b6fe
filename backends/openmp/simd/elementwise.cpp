// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/elementwise.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/openmp/simd/vector_math-inl.hpp"
#include "backends/portable/dispatch.hpp"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

const char* target() { return hwy::TargetName(HWY_TARGET); }

/// Applies `function(i) -> vector` to each vector of [begin, end), the last one partial, and stores
/// it to out. `function.first(i, count)` loads only `count` elements. Functions with kArithmetic
/// compute from numbers of out's dtype.
template <class T, class Function>
HWY_INLINE void map(std::int64_t begin, std::int64_t end, bool stream, T* out,
                    const Function& function) {
  constexpr bool kArithmetic = requires { Function::kArithmetic; };
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
  std::int64_t i = begin;
  if (stream) {
    while (i < end && !can_stream(out + i)) {
      store_first(function.first(i, 1), out + i, 1);
      ++i;
    }
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      put_pair<true, kArithmetic>(function(i), function(i + lanes), out + i);
    }
    hwy::FlushStream();
  }
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    const Floats first = function(i);
    const Floats second = function(i + lanes);
    put_pair<false, kArithmetic>(first, second, out + i);
  }
  for (; i + lanes <= end; i += lanes) put<false>(function(i), out + i);
  if (i < end) store_first(function.first(i, end - i), out + i, end - i);
}

template <class From>
struct Load {
  const From* source;
  HWY_INLINE Floats operator()(std::int64_t i) const { return load(source + i); }
  HWY_INLINE Floats first(std::int64_t i, std::int64_t count) const {
    return load_first(source + i, count);
  }
};

template <class From, class To>
void convert_typed(const ConvertElements& arguments, std::int64_t begin, std::int64_t end) {
  map(begin, end, arguments.stream, static_cast<To*>(arguments.out),
      Load<From>{static_cast<const From*>(arguments.source)});
}

void convert(const ConvertElements& arguments, std::int64_t begin, std::int64_t end) {
  if (arguments.source_dtype == arguments.out_dtype && !arguments.stream) {
    const auto size = static_cast<std::int64_t>(size_of(arguments.out_dtype));
    std::memcpy(static_cast<std::byte*>(arguments.out) + begin * size,
                static_cast<const std::byte*>(arguments.source) + begin * size,
                static_cast<std::size_t>((end - begin) * size));
    return;
  }
  dispatch_floating(arguments.source_dtype, arguments.out_dtype, [&](auto from, auto to) {
    convert_typed<typename decltype(from)::type, typename decltype(to)::type>(arguments, begin,
                                                                              end);
  });
}

template <class T>
struct AddTwo {
  static constexpr bool kArithmetic = true;
  const T* left;
  const T* right;
  HWY_INLINE Floats operator()(std::int64_t i) const {
    return hn::Add(load(left + i), load(right + i));
  }
  HWY_INLINE Floats first(std::int64_t i, std::int64_t count) const {
    return hn::Add(load_first(left + i, count), load_first(right + i, count));
  }
};

/// Sums blocks that stay in the first-level cache, so that any number of inputs streams well.
template <class T>
void sum_typed(const SumElements& arguments, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBlock = 2048;
  if (arguments.input_count == 2 && arguments.out_count == 1) {
    map(begin, end, arguments.stream, static_cast<T*>(arguments.outs[0]),
        AddTwo<T>{static_cast<const T*>(arguments.inputs[0]),
                  static_cast<const T*>(arguments.inputs[1])});
    return;
  }
  HWY_ALIGN float total[kBlock];
  for (std::int64_t block = begin; block < end; block += kBlock) {
    const std::int64_t count = std::min(kBlock, end - block);
    map(0, count, false, total, Load<T>{static_cast<const T*>(arguments.inputs[0]) + block});
    for (int input = 1; input < arguments.input_count; ++input) {
      const T* const added = static_cast<const T*>(arguments.inputs[input]) + block;
      const auto lanes = static_cast<std::int64_t>(hn::Lanes(FloatTag()));
      std::int64_t i = 0;
      for (; i + lanes <= count; i += lanes)
        store(hn::Add(load(total + i), load(added + i)), total + i);
      if (i < count) {
        store_first(hn::Add(load_first(total + i, count - i), load_first(added + i, count - i)),
                    total + i, count - i);
      }
    }
    for (int out = 0; out < arguments.out_count; ++out) {
      map(0, count, arguments.stream, static_cast<T*>(arguments.outs[out]) + block,
          Load<float>{total});
    }
  }
}

void sum(const SumElements& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    sum_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

template <class T>
struct Swiglu {
  static constexpr bool kArithmetic = true;
  const T* gate;
  const T* up;

  HWY_INLINE static Floats combine(Floats gate, Floats up) {
    const Floats one = hn::Set(FloatTag(), 1.0F);
    if constexpr (std::is_same_v<T, BFloat16>) {  // else arithmetic takes longer than memory
      const Floats factor = coarse_reciprocal(hn::Add(coarse_exp_of_opposite(gate), one));
      return hn::Mul(hn::Mul(gate, factor), up);
    }
    return hn::Mul(hn::Mul(gate, reciprocal(hn::Add(exp_of_opposite(gate), one))), up);
  }
  HWY_INLINE Floats operator()(std::int64_t i) const {
    return combine(load(gate + i), load(up + i));
  }
  HWY_INLINE Floats first(std::int64_t i, std::int64_t count) const {
    return combine(load_first(gate + i, count), load_first(up + i, count));
  }
};

template <class T>
void swiglu_typed(const SwigluRows& arguments, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    map(0, arguments.features, arguments.stream,
        static_cast<T*>(arguments.out) + row * arguments.out_stride,
        Swiglu<T>{static_cast<const T*>(arguments.gate) + row * arguments.gate_stride,
                  static_cast<const T*>(arguments.up) + row * arguments.up_stride});
  }
}

void swiglu(const SwigluRows& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.dtype, [&](auto type) {
    swiglu_typed<typename decltype(type)::type>(arguments, begin, end);
  });
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(target);
HWY_EXPORT(convert);
HWY_EXPORT(sum);
HWY_EXPORT(swiglu);

std::string target_name() { return HWY_DYNAMIC_DISPATCH(target)(); }

void convert(const ConvertElements& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(convert)(arguments, begin, end);
}

void sum(const SumElements& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(sum)(arguments, begin, end);
}

void swiglu(const SwigluRows& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
