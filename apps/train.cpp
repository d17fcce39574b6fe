// SPDX-License-Identifier: Apache-2.0
#include "apps/train.hpp"

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/collective_run.hpp"
#include "apps/loading_progress.hpp"
#include "apps/memory_check.hpp"
#include "apps/output_file.hpp"
#include "apps/progress.hpp"
#include "apps/training_data.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/mapped_file.hpp"
#include "core/safetensors_writer.hpp"
#include "core/timer.hpp"
#include "models/companion_files.hpp"
#include "models/registry.hpp"
#include "training/trainer.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kLargestCount = std::int64_t{1} << 40;

void require_range(const char* option, double value, double minimum, double maximum) {
  require(value >= minimum && value <= maximum, "{}: expected a number from {} to {}, found {}",
          option, minimum, maximum, value);
}

void require_count(const char* option, std::int64_t value, std::int64_t minimum) {
  require(value >= minimum && value <= kLargestCount,
          "{}: expected a whole number from {} on, found {}", option, minimum, value);
}

/// A request whose files have been looked at and whose numbers have been checked, before ranks work
/// together.
class TrainRun {
 public:
  explicit TrainRun(const TrainRequest& request) : request_(request) {
    require(request.model.has_value() != request.preset.has_value(),
            "train needs either --model or --preset");
    require(request.data.has_value() != request.batch.has_value(),
            "train needs either --data or --batch");
    if (request.model) {
      checkpoint_.emplace(*request.model);
      config_ = checkpoint_->config();
    } else {
      config_ = preset_config(*request.preset).with_layers(request.layers);
    }
    check_numbers();
    if (request.data) {
      require(outline_of(config_).causal,
              "--data: {} predicts masked tokens, which a text does not say: give --batch",
              config_.architecture);
      const std::int64_t vocabulary = config_.common().vocab_size;
      data_ = has_tokenizer()
                  ? read_training_text(*request.data, load_tokenizer(*request.model),
                                       request.batch_size, request.sequence_length, vocabulary)
                  : read_training_text(*request.data, request.batch_size, request.sequence_length,
                                       vocabulary);
    } else {
      data_ = read_training_batch(*request.batch, config_.common().vocab_size);
    }
    const std::int64_t longest =
        outline_of(config_).longest_sequence.value_or(config_.common().max_position_embeddings);
    require(data_->sequence_length() <= longest,
            "sequences of {} tokens exceed the model's {} positions", data_->sequence_length(),
            longest);
  }

  void run(Runtime& runtime) const {
    const ParallelLayout layout = choose_layout(request_.common, runtime.world().size());
    const bool speaks = runtime.world().rank() == 0;
    check_on_first_rank(runtime.world(), [this] {
      if (request_.out) prepare_output_folder(*request_.out);
      if (request_.save_gradients) prepare_output_file(*request_.save_gradients);
    });
    const ModelPlan plan(config_, layout);
    require_memory(
        runtime.world(), runtime.device(),
        {plan.weight_bytes(runtime.world().rank(), DType::f32) * values_per_weight(), 0});
    ParallelContext context(runtime.world(), layout);
    const std::unique_ptr<WeightSource> weights = checkpoint_
                                                      ? make_checkpoint_weights(*checkpoint_)
                                                      : make_random_weights(request_.common.seed);
    const DType dtype = request_.common.dtype.value_or(
        checkpoint_ ? config_.common().dtype.value_or(DType::f32) : DType::f32);
    LoadingProgress loading(*weights, plan.parameters().elements(context.tensor().rank()),
                            request_.common.quiet || !speaks);
    const std::unique_ptr<Model> model = make_model({.plan = plan,
                                                     .context = context,
                                                     .weights = loading,
                                                     .dtype = dtype,
                                                     .device = runtime.device(),
                                                     .maximum_length = data_->sequence_length(),
                                                     .use = ParameterUse::training});
    Trainer trainer(*model, make_optimizer(*model), trainer_options());
    Progress progress(request_.common.quiet || !speaks);
    for (std::int64_t step = 0; step < request_.steps; ++step) {
      run_step(trainer, *model, context, step, speaks, progress);
    }
    progress.clear();
    if (request_.out) save_model(trainer.gradients(), speaks);
    runtime.world().barrier();
  }

 private:
  void check_numbers() const {
    require_count("--steps", request_.steps, 0);
    require_count("--batch-size", request_.batch_size, 1);
    require_count("--seq-len", request_.sequence_length, 2);
    require_count("--warmup", request_.warmup, 0);
    require_range("--lr", request_.learning_rate, 0.0, 1e3);
    require_range("--momentum", request_.momentum, 0.0, 1.0);
    require_range("--weight-decay", request_.weight_decay, 0.0, 1e3);
    require_range("--dropout", request_.dropout, 0.0, 0.999);
    if (request_.clip_norm) require_range("--clip-norm", *request_.clip_norm, 1e-30, 1e30);
    require_one_of("--optimizer", request_.optimizer, {"adamw", "sgd"});
    require_one_of("--recompute", request_.recompute, {"none", "selective", "full"});
    static_cast<void>(learning_rate_decay_from_name(request_.schedule));
    // What AdamW divides by must not be 0 in f32.
    for (const double beta : request_.betas) require_range("--betas", beta, 0.0, 0.999999);
    require_range("--eps", request_.epsilon, 1e-30, 1.0);
    require(!request_.save_gradients || request_.steps > 0,
            "--save-gradients needs at least one step");
  }

  /// f32 values that are kept for each weight: master, gradient, and the optimizer's.
  [[nodiscard]] std::int64_t values_per_weight() const {
    if (request_.optimizer == "sgd") return request_.momentum > 0.0 ? 3 : 2;
    return 4;
  }

  [[nodiscard]] bool has_tokenizer() const {
    return request_.model && find_tokenizer(*request_.model).has_value();
  }

  [[nodiscard]] std::unique_ptr<Optimizer> make_optimizer(const Model& model) const {
    const std::vector<ParameterGroup> groups =
        decay_groups(model.parameters(), request_.weight_decay, request_.decay_all);
    if (request_.optimizer == "sgd") return make_sgd(groups, request_.momentum);
    return make_adamw(
        groups,
        {.beta1 = request_.betas[0], .beta2 = request_.betas[1], .epsilon = request_.epsilon});
  }

  [[nodiscard]] TrainerOptions trainer_options() const {
    return {.schedule = {.peak = request_.learning_rate,
                         .decay = learning_rate_decay_from_name(request_.schedule),
                         .warmup_steps = request_.warmup,
                         .total_steps = request_.steps},
            .clip_norm = request_.clip_norm,
            .recomputation = recomputation_from_name(request_.recompute),
            .attention_dropout = static_cast<float>(request_.dropout),
            .seed = request_.common.seed};
  }

  void run_step(Trainer& trainer, const Model& model, ParallelContext& context, std::int64_t step,
                bool speaks, Progress& progress) const {
    CachingAllocator& allocator = backend_of(model.device()).allocator();
    allocator.reset_peaks();
    context.reset_communication_memory_peaks();
    const TrainingBatch batch = data_->batch(step);
    const Stopwatch stopwatch;
    const TrainingStep result = trainer.step(
        batch, step == 0 && request_.save_gradients
                   ? [this, speaks](
                         const ShardedGradients& gradients) { save_gradients(gradients, speaks); }
                   : std::function<void(const ShardedGradients&)>());
    backend_of(model.device()).synchronize();
    const double seconds = stopwatch.seconds();
    if (!speaks) return;
    MemoryCounters memory = allocator.counters();
    memory += context.communication_memory();
    const nlohmann::ordered_json line = {
        {"step", result.step},
        {"loss", result.loss},
        {"grad_norm", result.gradient_norm},
        {"lr", result.learning_rate},
        {"scored_tokens", result.scored},
        {"seconds", seconds},
        {"tokens_per_second", static_cast<double>(batch.ids.size()) / seconds},
        {"allocated_peak_bytes", memory.allocated_peak}};
    progress.clear();
    std::cout << line.dump() << std::endl;
    progress.activity(fmt::format("step {} of {}: loss {:.4f}, {:.0f} tokens/s", step + 1,
                                  request_.steps, result.loss,
                                  static_cast<double>(batch.ids.size()) / seconds));
  }

  /// The header of a file with every tensor of the model.
  [[nodiscard]] std::vector<SafetensorsTensor> described_tensors() const {
    std::vector<SafetensorsTensor> tensors;
    for (const ParameterShape& parameter : parameter_shapes(config_)) {
      tensors.push_back({parameter.name, DType::f32, parameter.shape});
    }
    return tensors;
  }

  void save_gradients(const ShardedGradients& gradients, bool speaks) const {
    std::optional<SafetensorsWriter> writer;
    if (speaks) writer.emplace(*request_.save_gradients, described_tensors());
    gradients.visit_gradients([&](const std::string& name, const Tensor& whole) {
      if (writer) writer->append(name, {whole.raw(), whole.bytes()});
    });
    if (writer) writer->finish();
  }

  void save_model(const ShardedGradients& shards, bool speaks) const {
    std::optional<SafetensorsWriter> writer;
    const std::filesystem::path folder = *request_.out;
    if (speaks) {
      writer.emplace(folder / "model.safetensors", described_tensors(),
                     std::map<std::string, std::string>{{"format", "pt"}});
    }
    shards.visit_parameters([&](const std::string& name, const Tensor& whole) {
      if (writer) writer->append(name, {whole.raw(), whole.bytes()});
    });
    if (!writer) return;
    writer->finish();
    ModelConfig saved = config_;
    saved.common().dtype_name = "float32";
    write_file(folder / "config.json", config_text(saved));
    if (!request_.model || std::filesystem::equivalent(*request_.model, folder)) return;
    copy_companion_files(*request_.model, folder);
  }

  const TrainRequest& request_;
  std::optional<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::unique_ptr<TrainingData> data_;
};

}  // namespace

void run_train(const TrainRequest& request) {
  const TrainRun run(request);
  run_collectively(runtime_options(request.common), [&run](Runtime& runtime) { run.run(runtime); });
}

}  // namespace portolan
