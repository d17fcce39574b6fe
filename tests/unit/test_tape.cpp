// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/functional.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

constexpr Device kDevice{DeviceKind::serial, 0};

Tensor tensor(const std::vector<float>& values) {
  const Tensor result =
      Tensor::empty({1, 1, static_cast<std::int64_t>(values.size())}, DType::f32, kDevice);
  std::copy(values.begin(), values.end(), result.data<float>());
  return result;
}

std::vector<float> values(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.elements()};
}

ParameterPointer parameter(const std::vector<float>& master) {
  const Tensor storage =
      Tensor::empty({static_cast<std::int64_t>(master.size())}, DType::f32, kDevice);
  std::copy(master.begin(), master.end(), storage.data<float>());
  return Parameter::trainable({{"p", 0, storage.dim(0)}}, storage, DType::f32);
}

/// 2 x, as a node; `runs` counts how often it is computed.
Variable twice(const Variable& x, int* runs = nullptr) {
  if (runs != nullptr) ++*runs;
  const Tensor out = Tensor::empty(x.value().shape(), DType::f32, kDevice);
  ops::copy(x.value(), out);
  ops::scale(out, 2.0F);
  Tape* tape = x.tape();
  if (tape == nullptr) return out;
  return tape->record(out, {}, [tape, input = x.target()](OutputGradients gradients) {
    const Tensor gradient = gradients[0].exclusive();
    ops::scale(gradient, 2.0F);
    tape->contribute(input, gradient);
  });
}

/// p x element by element, and its gradient for p.
Variable times(const Variable& x, const ParameterPointer& p) {
  const Tensor out = Tensor::empty(x.value().shape(), DType::f32, kDevice);
  for (std::int64_t i = 0; i < out.elements(); ++i) {
    out.data<float>()[i] = x.value().data<float>()[i] * p->value().data<float>()[i];
  }
  Tape* tape = x.tape();
  return tape->record(out, {p}, [=](OutputGradients gradients) {
    const Tensor grad_x = Tensor::empty(out.shape(), DType::f32, kDevice);
    for (std::int64_t i = 0; i < out.elements(); ++i) {
      const float gradient = gradients[0].value.data<float>()[i];
      grad_x.data<float>()[i] = gradient * p->value().data<float>()[i];
      p->gradient().data<float>()[i] += gradient * x.value().data<float>()[i];
    }
    tape->contribute(x.target(), grad_x);
  });
}

TEST(Tape, AddsTheGradientsOfEveryUse) {
  Tape tape;
  const Variable x = tape.input(tensor({1.0F, -3.0F}));
  const Variable a = twice(x);
  const Variable b = twice(a);  // a is used twice: by b and by the sum
  const Tensor sum = tensor({0.0F, 0.0F});
  const Variable root = tape.record(sum, {}, [&tape, a, b](OutputGradients gradients) {
    // The same memory for both, which therefore nobody may change.
    tape.contribute(a.target(), gradients[0].value, true);
    tape.contribute(b.target(), gradients[0].value, true);
  });
  const Tensor seed = tensor({1.0F, 10.0F});
  tape.contribute(root.target(), seed, true);
  tape.backward(root, tensor({0.0F, 0.0F}));
  EXPECT_EQ(values(tape.gradient_of(x)), (std::vector<float>{6.0F, 60.0F}));  // 2 (1 + 2)
  EXPECT_EQ(values(seed), (std::vector<float>{1.0F, 10.0F})) << "shared memory was overwritten";
}

TEST(Tape, WithoutATapeNothingIsRecorded) {
  const Variable x = tensor({1.0F});
  EXPECT_EQ(twice(x).tape(), nullptr);
}

TEST(Tape, NodesThatNoGradientReachesAreNotRun) {
  Tape tape;
  const Variable x = tape.input(tensor({1.0F}));
  bool ran = false;
  const Variable dead = tape.record(tensor({5.0F}), {}, [&ran](OutputGradients) { ran = true; });
  const Variable root = twice(x);
  tape.backward(root, tensor({1.0F}));
  EXPECT_FALSE(ran);
  EXPECT_EQ(values(tape.gradient_of(x)), std::vector<float>{2.0F});
}

TEST(Tape, RefusesGradientsOfAnotherShapeOrTape) {
  Tape tape;
  Tape other;
  const Variable x = tape.input(tensor({1.0F}));
  EXPECT_THROW(tape.contribute(x.target(), tensor({1.0F, 2.0F})), UsageError);
  EXPECT_THROW(other.contribute(x.target(), tensor({1.0F})), UsageError);
}

TEST(Tape, HooksFireAfterTheLastUseAndOnlyWhileTheyAreHeld) {
  const ParameterPointer p = parameter({3.0F});
  int calls = 0;
  std::vector<float> seen;
  auto hook = p->add_hook([&](Parameter& own) {
    ++calls;
    seen = values(own.gradient());
  });
  const auto run = [&p] {
    Tape tape;
    const Variable x = tape.input(tensor({5.0F}));
    tape.backward(times(times(x, p), p), tensor({1.0F}));  // d(p^2 x)/dp = 2 p x
  };
  run();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(seen, std::vector<float>{30.0F});
  run();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(seen, std::vector<float>{60.0F}) << "gradients add up until they are cleared";
  p->clear_gradient();
  hook.reset();
  run();
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(values(p->gradient()), std::vector<float>{30.0F});
}

TEST(Tape, AnAbandonedForwardLeavesHooksInOrder) {
  const ParameterPointer p = parameter({3.0F});
  int calls = 0;
  const auto hook = p->add_hook([&](Parameter&) { ++calls; });
  {
    Tape tape;
    const Variable x = tape.input(tensor({5.0F}));
    static_cast<void>(times(x, p));
  }
  Tape tape;
  const Variable x = tape.input(tensor({5.0F}));
  tape.backward(times(x, p), tensor({1.0F}));
  EXPECT_EQ(calls, 1);
}

TEST(Tape, ACheckpointRunsTwiceKeepsNothingAndGivesTheSameGradients) {
  const ParameterPointer p = parameter({3.0F});
  int hooks = 0;
  const auto hook = p->add_hook([&](Parameter&) { ++hooks; });
  int runs = 0;
  CachingAllocator& allocator = backend_of(kDevice).allocator();
  Tape tape;
  const Variable x = tape.input(tensor({5.0F}));
  const std::int64_t before = allocator.counters().allocated;
  const std::vector<Variable> out = tape.checkpoint(
      [&runs, &p](std::span<const Variable> inputs) {
        return std::vector<Variable>{times(twice(twice(inputs[0], &runs)), p)};
      },
      {x});
  const std::int64_t kept = allocator.counters().allocated - before;
  EXPECT_EQ(kept, static_cast<std::int64_t>(CachingAllocator::kAlignment)) << "the output alone";
  EXPECT_EQ(values(out[0].value()), std::vector<float>{60.0F});
  EXPECT_EQ(runs, 1);
  tape.backward(times(out[0], p), tensor({1.0F}));  // p^2 4 x
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(values(tape.gradient_of(x)), std::vector<float>{36.0F});
  EXPECT_EQ(values(p->gradient()), std::vector<float>{120.0F});
  EXPECT_EQ(hooks, 1);
}

TEST(Tape, ACheckpointMayGiveTwoInputsTheSameGradient) {
  Tape tape;
  const Variable a = tape.input(tensor({1.0F}));
  const Variable b = tape.input(tensor({2.0F}));
  const std::vector<Variable> out = tape.checkpoint(
      [](std::span<const Variable> inputs) {
        const Variable first = inputs[0];
        const Variable second = inputs[1];
        const Tensor sum = tensor({3.0F});
        if (first.tape() == nullptr) return std::vector<Variable>{sum};
        return std::vector<Variable>{
            first.tape()->record(sum, {}, [first, second](OutputGradients gradients) {
              first.tape()->contribute(first.target(), gradients[0].value, true);
              second.tape()->contribute(second.target(), gradients[0].value, true);
            })};
      },
      {twice(a), twice(b)});  // each doubles its gradient in place where the memory is its own
  tape.backward(out[0], tensor({1.0F}));
  EXPECT_EQ(values(tape.gradient_of(a)), std::vector<float>{2.0F});
  EXPECT_EQ(values(tape.gradient_of(b)), std::vector<float>{2.0F});
}

TEST(Tape, ABackwardThatThrowsLeavesHooksInOrder) {
  const ParameterPointer p = parameter({3.0F});
  int calls = 0;
  const auto hook = p->add_hook([&](Parameter&) { ++calls; });
  {
    Tape tape;
    const Variable root = tape.record(
        tensor({1.0F}), {p}, [](OutputGradients) { throw OutOfMemoryError("the device is full"); });
    EXPECT_THROW(tape.backward(root, tensor({1.0F})), OutOfMemoryError);
  }
  EXPECT_EQ(calls, 0);
  Tape tape;
  const Variable x = tape.input(tensor({5.0F}));
  tape.backward(times(x, p), tensor({1.0F}));
  EXPECT_EQ(calls, 1);
}

TEST(Tape, ARecomputedValueIsAskedForWhenItIsNeeded) {
  Tape tape;
  const Variable x = tape.input(tensor({5.0F}));
  int asked = 0;
  const Variable cheap = twice(x).recomputed_by([&asked] {
    ++asked;
    return tensor({10.0F});
  });
  const SavedTensor saved = cheap.save();
  EXPECT_EQ(asked, 0);
  EXPECT_EQ(values(saved.get()), std::vector<float>{10.0F});
  EXPECT_EQ(asked, 1);
}

}  // namespace
}  // namespace portolan
