// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <type_traits>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"

namespace portolan::portable {

/// Bits is an unsigned integer of the element's size, which compilers vectorise better than a
/// class.
template <class Bits>
struct FillRows {
  Bits* out = nullptr;
  Bits value{};
  StridedRows<1> rows;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    Bits* const to = out + rows.offset(0, row);
    const Bits bits = value;
    if (rows.column_stride[0] == 1) {
      for (std::int64_t column = begin; column < end; ++column) to[column] = bits;
    } else {
      const std::int64_t stride = rows.column_stride[0];
      for (std::int64_t column = begin; column < end; ++column) to[column * stride] = bits;
    }
  }
};

template <class Space>
void fill(const Space& space, const Tensor& out, float value) {
  const auto rows = strided_rows<1>(out.shape(), {&out.strides()});
  dispatch_floating(out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;
    for_rows(space, "Portolan::Elementwise::fill", rows.rows, rows.columns,
             FillRows<Bits>{out.data<Bits>(), std::bit_cast<Bits>(from_float<T>(value)), rows});
  });
}

template <class From, class To>
struct CopyRows {
  const From* source = nullptr;
  To* out = nullptr;
  StridedRows<2> rows;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    const From* const from = source + rows.offset(0, row);
    To* const to = out + rows.offset(1, row);
    for (std::int64_t column = begin; column < end; ++column) {
      const From value = from[column * rows.column_stride[0]];
      if constexpr (std::is_same_v<From, To>) {
        to[column * rows.column_stride[1]] = value;
      } else {
        to[column * rows.column_stride[1]] = from_float<To>(to_float(value));
      }
    }
  }
};

template <class Space, class From, class To>
void copy_typed(const Space& space, const Tensor& source, const Tensor& out) {
  const auto rows = strided_rows<2>(out.shape(), {&source.strides(), &out.strides()});
  for_rows(space, "Portolan::Elementwise::copy", rows.rows, rows.columns,
           CopyRows<From, To>{source.data<From>(), out.data<To>(), rows});
}

template <class Space>
void copy(const Space& space, const Tensor& source, const Tensor& out) {
  if (source.dtype() == out.dtype()) {
    switch (size_of(out.dtype())) {
      case 1:
        return copy_typed<Space, std::uint8_t, std::uint8_t>(space, source, out);
      case 2:
        return copy_typed<Space, std::uint16_t, std::uint16_t>(space, source, out);
      case 4:
        return copy_typed<Space, std::uint32_t, std::uint32_t>(space, source, out);
      default:
        return copy_typed<Space, std::uint64_t, std::uint64_t>(space, source, out);
    }
  }
  dispatch_floating(source.dtype(), out.dtype(), [&](auto from, auto to) {
    copy_typed<Space, typename decltype(from)::type, typename decltype(to)::type>(space, source,
                                                                                  out);
  });
}

/// Operands that one launch of the sum takes; more are summed in several launches.
inline constexpr int kSumOperands = 16;

/// accumulator (f32, may be null) + inputs[0] + inputs[1] + ... -> outs, or -> accumulator when
/// there are no outs yet.
template <class T>
struct SumElements {
  float* accumulator = nullptr;
  bool continues = false;  // the accumulator holds the sum of earlier inputs
  int inputs = 0;
  int outs = 0;
  const T* input[kSumOperands] = {};
  T* out[kSumOperands] = {};

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t /*row*/, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t i = begin; i < end; ++i) {
      float sum = continues ? accumulator[i] : to_float(input[0][i]);
      for (int operand = continues ? 0 : 1; operand < inputs; ++operand) {
        sum += to_float(input[operand][i]);
      }
      if (outs == 0) accumulator[i] = sum;
      for (int operand = 0; operand < outs; ++operand) out[operand][i] = from_float<T>(sum);
    }
  }
};

template <class Space, class T>
void sum_typed(const Space& space, CachingAllocator& allocator, std::span<const Tensor> inputs,
               std::span<const Tensor> outs) {
  const std::int64_t elements = outs[0].elements();
  constexpr std::size_t kAtOnce = kSumOperands;
  BlockReference scratch;  // the running sum, where the inputs need several launches
  SumElements<T> kernel;
  if (inputs.size() > kAtOnce) {
    scratch = allocator.allocate(static_cast<std::size_t>(elements) * sizeof(float));
    kernel.accumulator = reinterpret_cast<float*>(scratch.get()->data());
  }
  const auto launch = [&](std::span<const Tensor> some) {
    kernel.inputs = static_cast<int>(some.size());
    for (std::size_t i = 0; i < some.size(); ++i) kernel.input[i] = some[i].data<T>();
    for_rows(space, "Portolan::Elementwise::sum", 1, elements, kernel);
    kernel.continues = true;
  };
  for (; inputs.size() > kAtOnce; inputs = inputs.subspan(kAtOnce)) launch(inputs.first(kAtOnce));
  const std::size_t direct = std::min(outs.size(), kAtOnce);
  kernel.outs = static_cast<int>(direct);
  for (std::size_t i = 0; i < direct; ++i) kernel.out[i] = outs[i].data<T>();
  launch(inputs);
  for (const Tensor& out : outs.subspan(direct)) copy(space, outs[0], out);
}

template <class Space>
void sum(const Space& space, CachingAllocator& allocator, std::span<const Tensor> inputs,
         std::span<const Tensor> outs) {
  dispatch_floating(outs[0].dtype(), [&](auto type) {
    sum_typed<Space, typename decltype(type)::type>(space, allocator, inputs, outs);
  });
}

template <class From, class To>
struct AddRows {
  const From* x = nullptr;
  To* y = nullptr;
  StridedRows<2> rows;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    const From* const from = x + rows.offset(0, row);
    To* const to = y + rows.offset(1, row);
    for (std::int64_t column = begin; column < end; ++column) {
      To& sum = to[column * rows.column_stride[1]];
      sum = from_float<To>(to_float(sum) + to_float(from[column * rows.column_stride[0]]));
    }
  }
};

template <class Space>
void add(const Space& space, const Tensor& x, const Tensor& y) {
  const auto rows = strided_rows<2>(y.shape(), {&x.strides(), &y.strides()});
  dispatch_floating(x.dtype(), y.dtype(), [&](auto from, auto to) {
    using From = typename decltype(from)::type;
    using To = typename decltype(to)::type;
    for_rows(space, "Portolan::Elementwise::add", rows.rows, rows.columns,
             AddRows<From, To>{x.data<From>(), y.data<To>(), rows});
  });
}

template <class T>
struct ScaleRows {
  T* x = nullptr;
  float factor = 1.0F;
  StridedRows<1> rows;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    T* const values = x + rows.offset(0, row);
    for (std::int64_t column = begin; column < end; ++column) {
      T& value = values[column * rows.column_stride[0]];
      value = from_float<T>(to_float(value) * factor);
    }
  }
};

template <class Space>
void scale(const Space& space, const Tensor& x, float factor) {
  const auto rows = strided_rows<1>(x.shape(), {&x.strides()});
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Elementwise::scale", rows.rows, rows.columns,
             ScaleRows<T>{x.data<T>(), factor, rows});
  });
}

}  // namespace portolan::portable
