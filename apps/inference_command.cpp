// SPDX-License-Identifier: Apache-2.0
// `portolan inference`: the command line of the published inference script, flag by flag, so that
// its users' job files run with another program's name in them.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/commands.hpp"
#include "apps/generate.hpp"
#include "apps/training_data.hpp"
#include "core/error.hpp"
#include "core/log.hpp"
#include "core/mapped_file.hpp"
#include "models/checkpoint.hpp"
#include "models/registry.hpp"

namespace portolan {
namespace {

struct InferenceRequest {
  GenerateRequest generate;
  std::string architecture = "llama";
  std::optional<std::string> variant;
  std::optional<std::string> source;
  std::optional<std::string> context_file;
  bool distributed = false;
  bool batch_input = false;
};

DType dtype_of(const std::string& text) {
  static const std::map<std::string, DType> dtypes{{"fp32", DType::f32},  {"float32", DType::f32},
                                                   {"bf16", DType::bf16}, {"bfloat16", DType::bf16},
                                                   {"fp16", DType::f16},  {"float16", DType::f16}};
  const auto found = dtypes.find(text);
  require(found != dtypes.end(),
          "--default_dtype: '{}' is not one of fp32, float32, bf16, bfloat16, fp16, float16", text);
  return found->second;
}

/// The folder decides what the model is; the flags only have to name the same architecture.
void check_names(const InferenceRequest& request, const Checkpoint& checkpoint) {
  const ModelArchitecture& architecture = model_architecture(request.architecture);
  const std::string layout = checkpoint.format() == CheckpointFormat::meta ? "meta" : "hf";
  require(request.source.value_or(layout) == layout, "--model_source {}: {} has the layout {}",
          request.source.value_or(""), request.generate.model, layout);
  const std::string& found = checkpoint.config().architecture;
  require(found == architecture.name, "--architecture {}: {} holds a model of {}",
          request.architecture, request.generate.model, found);
  if (!request.variant) return;
  const auto variant =
      std::ranges::find(architecture.variants, *request.variant, &ModelVariant::name);
  if (variant == architecture.variants.end()) {
    log().warn("--variant {}: not a size that is known here; that of {} counts", *request.variant,
               request.generate.model);
  } else if (variant->config.common().hidden_size != checkpoint.config().common().hidden_size) {
    log().warn("--variant {}: {} is of another size, which counts", *request.variant,
               request.generate.model);
  }
}

/// The script has prompts of its own, of which --batch_input takes both.
std::vector<std::string> prompts_of(const InferenceRequest& request) {
  std::vector<std::string> prompts = request.generate.prompts;
  if (prompts.empty()) {
    prompts = {"Question: How is a chart of the sea read?\nAnswer:"};
    if (request.batch_input) prompts.emplace_back("Question: Why is the sea salt?\nAnswer:");
  }
  if (request.context_file) {
    const std::string context = read_text_file(*request.context_file, kLargestText);
    for (std::string& prompt : prompts) prompt = context + "\n" + prompt;
  }
  return prompts;
}

/// How PyTorch runs a model: whatever they say, the tokens are the same, and there is nothing here
/// to be chosen.
void add_idle_options(CLI::App& command) {
  const std::string help = "Taken and without effect, as it is about PyTorch alone";
  for (const char* name : {"--compile", "--deterministic", "--unfuse_weights"}) {
    command.add_flag(name, help);
  }
  add_text_option(command, "--compile_mode", "As --compile", "MODE", [](const std::string& text) {
    require_one_of("--compile_mode", text, {"default", "reduce-overhead"});
  });
  add_text_option(command, "--min_pad_length", "As --compile: padding changes no token", "N",
                  [](const std::string& text) {
                    static_cast<void>(parse_integer("--min_pad_length", text, 0,
                                                    std::numeric_limits<std::int64_t>::max()));
                  });
}

}  // namespace

void add_inference_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand(
      "inference", "generate, with the flags of the published inference script");
  const auto request = std::make_shared<InferenceRequest>();
  InferenceRequest* const r = request.get();  // lives in the callback below
  GenerateRequest& generate = r->generate;
  generate.options.max_new_tokens = 100;
  const auto add_text = [command](const char* name, const char* help, const char* value,
                                  const std::function<void(const std::string&)>& store) {
    add_text_option(*command, name, help, value, store);
  };
  command->add_option("--architecture", r->architecture, "As config.json's model_type")
      ->type_name("NAME");
  command->add_option("--variant", r->variant, "Size by name; the folder's own counts")
      ->type_name("NAME");
  command->add_option("--model_path", generate.model, "Folder of the model")
      ->required()
      ->type_name("DIR");
  add_text("--model_source", "Layout of the folder: hf or meta", "NAME",
           [r](const std::string& text) {
             require_one_of("--model_source", text, {"hf", "meta"});
             r->source = text;
           });
  command->add_option("--tokenizer", generate.tokenizer, "Its file")->type_name("FILE");
  add_text("--device_type", "cpu, cuda or serial", "DEVICE", [r](const std::string& text) {
    require_one_of("--device_type", text, {"cpu", "cuda", "serial"});
    r->generate.common.device = device_kind_from_name(text);
  });
  add_text("--default_dtype", "fp32, bf16 or fp16", "DTYPE",
           [r](const std::string& text) { r->generate.common.dtype = dtype_of(text); });
  command->add_flag_callback(
      "--no_use_cache", [r] { r->generate.scorer.use_cache = false; },
      "Compute all tokens anew for each one");
  add_text("--distributed_strategy", "Over several ranks: tp, sp or ring", "NAME",
           [r](const std::string& text) {
             require_one_of("--distributed_strategy", text, {"tp", "sp", "ring"});
             r->generate.common.parallel = parallel_mode_from_name(text);
           });
  command->add_flag("--distributed", r->distributed,
                    "Over several ranks: tp unless --distributed_strategy says another");
  add_texts_option(*command, "--prompt", "Default: a question", "TEXT", generate.prompts);
  command->add_flag("--batch_input", r->batch_input, "Two default prompts at once");
  command->add_option("--context_file", r->context_file, "Text that goes before the prompts")
      ->type_name("FILE");
  command->add_option("--max_new_tokens", generate.options.max_new_tokens, "Default 100")
      ->type_name("N");
  add_idle_options(*command);
  add_output_options(*command, generate.common);
  command->footer(
      "Examples:\n"
      "  portolan inference --architecture llama --variant 7b --model_path ../llama-hf "
      "--model_source hf\n"
      "    --tokenizer ../llama-hf/tokenizer.model --device_type cpu --default_dtype fp32 "
      "--no_use_cache");
  command->callback([request] {
    const Checkpoint checkpoint(request->generate.model);
    check_names(*request, checkpoint);
    CommonOptions& common = request->generate.common;
    if (request->distributed && !common.parallel) common.parallel = ParallelMode::tp;
    request->generate.prompts = prompts_of(*request);
    run_generate(std::move(request->generate), checkpoint);
  });
}

}  // namespace portolan
