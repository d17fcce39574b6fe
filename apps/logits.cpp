// SPDX-License-Identifier: Apache-2.0
#include "apps/logits.hpp"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "apps/collective_run.hpp"
#include "apps/json_text.hpp"
#include "apps/loaded_model.hpp"
#include "apps/output_file.hpp"
#include "apps/token_batch.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "core/safetensors_writer.hpp"
#include "core/timer.hpp"
#include "models/tokenizers/tokenizer.hpp"

namespace portolan {
namespace {

/// Rows are gathered in pieces of about this many bytes, so that no rank holds all logits in f32.
constexpr std::int64_t kGatherBytes = 64 << 20;

void check_ids(const TokenBatch& batch, std::int64_t vocabulary, const LogitsRequest& request) {
  const std::string source = request.ids ? "--ids" : request.input.value_or("--prompt");
  std::int64_t tokens = 0;
  for (const TokenBatch::Row& row : batch.rows) {
    tokens += static_cast<std::int64_t>(row.ids.size());
    require_in_vocabulary(row.ids, vocabulary, source);
  }
  require(tokens > 0, "{}: there is no token to run the model on", source);
}

void check_lengths(const TokenBatch& batch, const ModelOutline& outline) {
  const std::int64_t longest = outline.longest_sequence.value_or(batch.length);
  for (const TokenBatch::Row& row : batch.rows) {
    require(std::ssize(row.ids) <= longest, "a sequence of {} tokens exceeds the model's {}",
            row.ids.size(), longest);
  }
}

/// This rank's part of a residual state [1, tokens, hidden], as the whole [length, hidden] in host
/// memory on every rank.
Tensor gather_state(const Model& model, const Tensor& state, std::int64_t length) {
  const ParallelContext& context = model.context();
  const SequenceSharding sharding(length, context.mesh().shape().context);
  const MeshCoordinates& at = context.mesh().coordinates();
  const std::int64_t hidden = state.dim(2);
  const Tensor whole = Tensor::empty({length, hidden}, DType::f32, model.device());
  ops::fill(whole, 0.0F);
  const TensorParallelGroup& group = context.tensor();
  // Between blocks the tokens of this rank are a range of its context shard, or all of it on each
  // of the tensor-parallel ranks, of which the first contributes.
  const std::int64_t tokens = sharding.local_tokens(at.context);
  const std::int64_t first =
      group.sequence_parallel() ? group.tokens(tokens).offset(group.rank()) : 0;
  std::int64_t row = 0;  // within the context shard
  for (const TokenRun& run : sharding.runs(at.context)) {
    const std::int64_t begin = std::max(row, first);
    const std::int64_t end = std::min(row + run.length, first + state.dim(1));
    if (begin < end && (group.sequence_parallel() || group.rank() == 0)) {
      const std::int64_t position = run.position + begin - row;
      ops::copy(state.view({state.dim(1), hidden}).slice(0, begin - first, end - first),
                whole.slice(0, position, position + end - begin));
    }
    row += run.length;
  }
  context.world().all_reduce(whole);
  return ops::to_host(whole);
}

/// Rows of one length run together; those of the greatest length do in any case.
std::int64_t rows_of_greatest_length(const TokenBatch& batch) {
  std::int64_t longest = 0;
  for (const TokenBatch::Row& row : batch.rows) longest = std::max(longest, std::ssize(row.ids));
  return std::ranges::count_if(
      batch.rows, [longest](const TokenBatch::Row& row) { return std::ssize(row.ids) == longest; });
}

TokenBatch read_tokens(const LogitsRequest& request) {
  const int given =
      request.prompt.has_value() + request.ids.has_value() + request.input.has_value();
  require(given == 1, "logits needs one of --prompt, --ids and --input");
  if (request.ids) return parse_token_ids(*request.ids);
  if (request.input) return read_token_batch(*request.input);
  require(find_tokenizer(request.model).has_value(),
          "--prompt: {} has no tokenizer.json or tokenizer.model; give --ids", request.model);
  TokenBatch batch;
  batch.rows.push_back({load_tokenizer(request.model).encode(*request.prompt), 0});
  batch.length = std::ssize(batch.rows.front().ids);
  return batch;
}

class LogitsRun {
 public:
  LogitsRun(const LogitsRequest& request, const TokenBatch& batch, const Model& model, bool writes)
      : request_(request), batch_(batch), model_(model) {
    if (writes) open();
  }

  void run() {
    // Rows of one length form one batch: padding never enters the model.
    std::map<std::size_t, std::vector<std::size_t>> by_length;
    for (std::size_t row = 0; row < batch_.rows.size(); ++row) {
      if (!batch_.rows[row].ids.empty()) by_length[batch_.rows[row].ids.size()].push_back(row);
    }
    std::vector<Tensor> results(batch_.rows.size());
    if (request_.hidden_states) run_hidden_states();
    for (const auto& [length, rows] : by_length) run_rows(rows, results);
    if (writer_) write_logits(results);
  }

 private:
  [[nodiscard]] std::int64_t vocabulary() const { return model_.plan().dimensions().vocab_size; }

  void open() {
    const auto rows = static_cast<std::int64_t>(batch_.rows.size());
    std::vector<SafetensorsTensor> tensors{
        {"logits", DType::f32, {rows, batch_.length, vocabulary()}}};
    if (request_.hidden_states) {
      const auto length = static_cast<std::int64_t>(batch_.rows.front().ids.size());
      const auto add = [&](const std::string& name) {
        tensors.push_back(
            {"hidden." + name, DType::f32, {length, model_.plan().dimensions().hidden_size}});
      };
      add("embed");
      for (std::int64_t i = 0; i < model_.plan().dimensions().layers; ++i) {
        add(fmt::format("layer.{}", i));
      }
      if (model_.has_final_norm()) add("final");
    }
    writer_.emplace(request_.out, tensors);
  }

  void run_hidden_states() {
    const std::vector<std::int32_t>& ids = batch_.rows.front().ids;
    require(!ids.empty(), "--hidden-states shows row 0, which has no token");
    const auto length = static_cast<std::int64_t>(ids.size());
    const auto logits = model_.forward(ids, 1, [&](const std::string& name, const Tensor& state) {
      const Tensor whole = gather_state(model_, state, length);
      if (writer_) writer_->append("hidden." + name, {whole.raw(), whole.bytes()});
    });
  }

  void run_rows(const std::vector<std::size_t>& rows, std::vector<Tensor>& results) {
    std::vector<std::int32_t> ids;
    for (const std::size_t row : rows) {
      ids.insert(ids.end(), batch_.rows[row].ids.begin(), batch_.rows[row].ids.end());
    }
    const auto batch = static_cast<std::int64_t>(rows.size());
    const std::int64_t length = static_cast<std::int64_t>(ids.size()) / batch;
    const Tensor logits = model_.forward(ids, batch);
    const std::int64_t step = std::max<std::int64_t>(1, kGatherBytes / (vocabulary() * 4));
    for (std::int64_t b = 0; b < batch; ++b) {
      Tensor& result = results[rows[static_cast<std::size_t>(b)]];
      if (writer_) result = Tensor::empty({length, vocabulary()}, DType::f32, host_);
      for (std::int64_t begin = 0; begin < length; begin += step) {
        std::vector<std::int64_t> wanted(static_cast<std::size_t>(std::min(step, length - begin)));
        std::iota(wanted.begin(), wanted.end(), b * length + begin);
        const Tensor gathered = model_.gather_logits(logits, wanted, length);
        if (!writer_) continue;
        const Tensor part =
            result.slice(0, begin, begin + static_cast<std::int64_t>(wanted.size()));
        std::copy_n(gathered.data<float>(), gathered.elements(), part.data<float>());
      }
    }
  }

  void write_logits(const std::vector<Tensor>& results) {
    const std::vector<float> zeros(static_cast<std::size_t>(vocabulary()), 0.0F);
    const auto write_padding = [&](std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) {
        writer_->append("logits", std::as_bytes(std::span(zeros)));
      }
    };
    for (std::size_t row = 0; row < results.size(); ++row) {
      const auto length = static_cast<std::int64_t>(batch_.rows[row].ids.size());
      const std::int64_t first = length == 0 ? 0 : batch_.rows[row].first;
      write_padding(first);
      if (length > 0) writer_->append("logits", {results[row].raw(), results[row].bytes()});
      write_padding(batch_.length - first - length);
    }
    writer_->finish();
  }

  const LogitsRequest& request_;
  const TokenBatch& batch_;
  const Model& model_;
  Device host_{has_backend({DeviceKind::cpu, 0}) ? DeviceKind::cpu : DeviceKind::serial, 0};
  std::optional<SafetensorsWriter> writer_;
};

void print_document(const LogitsRequest& request, const TokenBatch& batch,
                    const LoadedModel& loaded, double seconds) {
  const ParallelLayout& layout = loaded.context->layout();
  const nlohmann::ordered_json document{
      {"out", request.out},
      {"shape", {batch.rows.size(), batch.length, loaded.model->plan().dimensions().vocab_size}},
      {"dtype", name_of(loaded.model->dtype())},
      {"quantize", name_of(request.common.quantization)},
      {"device", name_of(request.common.device)},
      {"mesh", layout.mesh.to_string()},
      {"sequence_parallel", layout.sequence_parallel},
      {"load_s", loaded.seconds},
      {"run_s", seconds}};
  fmt::print("{}", json_text(document));
}

}  // namespace

void run_logits(const LogitsRequest& request) {
  // Everything that a file or an option can get wrong is found before ranks start to work together.
  const Checkpoint checkpoint(request.model);
  const TokenBatch batch = read_tokens(request);
  check_ids(batch, checkpoint.config().common().vocab_size, request);
  check_lengths(batch, outline_of(checkpoint.config()));

  const auto work = [&](Runtime& runtime) {
    check_on_first_rank(runtime.world(), [&] { prepare_output_file(request.out); });
    const LoadedModel loaded =
        load_model(checkpoint, request.common,
                   {.tokens = batch.length, .batch = rows_of_greatest_length(batch)}, runtime);
    const bool is_root = runtime.world().rank() == 0;
    const Stopwatch stopwatch;
    LogitsRun(request, batch, *loaded.model, is_root).run();
    if (is_root && request.common.json) {
      print_document(request, batch, loaded, stopwatch.seconds());
    }
    runtime.world().barrier();
  };
  run_collectively(runtime_options(request.common), work);
}

}  // namespace portolan
