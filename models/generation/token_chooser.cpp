// SPDX-License-Identifier: Apache-2.0
#include "models/generation/token_chooser.hpp"

#include <algorithm>
#include <numeric>

#include "core/ops.hpp"
#include "models/generation/sampling.hpp"
#include "models/upload.hpp"

namespace portolan {
namespace {

/// 1 where a token of the row's prompt stands; what is no token of the vocabulary is passed over.
std::vector<std::uint8_t> occurrences(std::span<const TokenIds> prompts, std::int64_t vocabulary) {
  std::vector<std::uint8_t> seen(prompts.size() * static_cast<std::size_t>(vocabulary));
  auto row = seen.begin();
  for (const TokenIds& prompt : prompts) {
    for (const std::int32_t id : prompt) {
      if (id >= 0 && id < vocabulary) row[id] = 1;
    }
    row += vocabulary;
  }
  return seen;
}

}  // namespace

TokenChooser::TokenChooser(const TokenChoice& choice, std::span<const TokenIds> prompts)
    : choice_(choice), prompts_(prompts.begin(), prompts.end()), numbers_(prompts.size()) {
  std::iota(numbers_.begin(), numbers_.end(), 0);
}

void TokenChooser::move_to(const Tensor& logits) {
  const Device device = logits.device();
  sequences_ = upload(numbers_, {std::ssize(numbers_)}, DType::i32, device);
  ids_ = Tensor::empty(sequences_.shape(), DType::i32, device);
  if (choice_.repetition_penalty != 1.0 && !seen_.defined()) {
    seen_ = upload(occurrences(prompts_, logits.dim(1)), logits.shape(), DType::u8, device);
  }
  prompts_.clear();
}

TokenIds TokenChooser::choose(const Tensor& logits, std::int64_t step) {
  if (!sequences_.defined()) move_to(logits);
  ops::choose_tokens(logits, seen_, choice_, sequences_, step, ids_);
  const Tensor host = ops::to_host(ids_);
  TokenIds ids(host.data<std::int32_t>(), host.data<std::int32_t>() + host.elements());
  if (std::ranges::find(ids, -1) != ids.end()) refuse_logits();
  return ids;
}

void TokenChooser::select(std::span<const std::int64_t> rows) {
  std::vector<std::int32_t> numbers;
  for (const std::int64_t row : rows) numbers.push_back(numbers_[static_cast<std::size_t>(row)]);
  numbers_ = std::move(numbers);
  sequences_ = {};
  if (!seen_.defined()) return;
  const Tensor seen = Tensor::empty({std::ssize(rows), seen_.dim(1)}, DType::u8, seen_.device());
  for (std::int64_t i = 0; i < std::ssize(rows); ++i) {
    const std::int64_t row = rows[static_cast<std::size_t>(i)];
    ops::copy(seen_.slice(0, row, row + 1), seen.slice(0, i, i + 1));
  }
  seen_ = seen;
}

}  // namespace portolan
