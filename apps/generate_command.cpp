// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.hpp"
#include "apps/generate.hpp"
#include "models/generation/sampling.hpp"

namespace portolan {

void add_generate_command(CLI::App& application) {
  CLI::App* command =
      application.add_subcommand("generate", "Continue prompts with a causal model");
  const auto request = std::make_shared<GenerateRequest>();
  GenerateRequest* const r = request.get();  // `request` lives in the callback below
  command->add_option("--model", r->model, "Folder of the model")->required()->type_name("DIR");
  add_texts_option(*command, "--prompt", "Text to continue; several times for several texts",
                   "TEXT", r->prompts);
  command
      ->add_option("--ids", r->ids,
                   "Token ids instead, used as given: sequences by ';', ids by ','")
      ->type_name("IDS");
  command->add_option("--tokenizer", r->tokenizer, "Instead of the folder's")->type_name("FILE");
  GenerationOptions& options = r->options;
  options.max_new_tokens = 64;
  command->add_option("--max-new-tokens", options.max_new_tokens, "Default 64")->type_name("N");
  TokenChoice& sampling = options.sampling;
  command
      ->add_option("--temperature", sampling.temperature,
                   "Draw at random from logits divided by it (default 0: the likeliest token)")
      ->type_name("T");
  command->add_option("--top-k", sampling.top_k, "With --temperature: from the K likeliest tokens")
      ->type_name("K");
  command
      ->add_option("--top-p", sampling.top_p,
                   "With --temperature: from the fewest tokens that have this probability together")
      ->type_name("P");
  command
      ->add_option("--min-p", sampling.min_p,
                   "With --temperature: from tokens at least this likely relative to the likeliest")
      ->type_name("M");
  command
      ->add_option("--repetition-penalty", sampling.repetition_penalty,
                   "Above 1: makes tokens that occurred before less likely")
      ->type_name("R");
  command->add_option("--beams", options.beams, "Hypotheses of a beam search (default 1: none)")
      ->type_name("B");
  command
      ->add_option("--length-penalty", options.length_penalty,
                   "With --beams: exponent of the length that scores are divided by (default 1)")
      ->type_name("X");
  add_texts_option(*command, "--stop", "End before this text; several times for several", "TEXT",
                   r->stops);
  command->add_flag("--stream", r->stream, "Print text as it comes");
  command->add_flag_callback(
      "--no-cache", [r] { r->scorer.use_cache = false; },
      "Compute all tokens anew for each new one");
  add_graph_option(*command, r->scorer.record);
  command->add_flag("--chat", r->chat, "The prompt is a user's message: apply the chat template");
  command->add_option("--system", r->system, "System message of the chat")->type_name("TEXT");
  command->add_flag("--log-probabilities", options.log_probabilities,
                    "With --json, those of the new tokens");
  add_inference_options(*command, r->common);
  command->footer(
      "Examples:\n"
      "  portolan generate --model DIR --prompt \"Once upon a time\" --max-new-tokens 40 --stream\n"
      "  portolan generate --model DIR --prompt \"Why?\" --chat --temperature 0.8 --top-p 0.95\n"
      "  mpirun -n 2 portolan generate --model DIR --parallel tp --ids \"1,5,7;1,9\" --json");
  command->callback([request] {
    request->options.sampling.key = sampling_key(request->common.seed);
    const Checkpoint checkpoint(request->model);
    run_generate(std::move(*request), checkpoint);
  });
}

}  // namespace portolan
