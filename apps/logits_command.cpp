// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/commands.hpp"
#include "apps/logits.hpp"
#include "apps/worker.hpp"

namespace portolan {

void add_logits_command(CLI::App& application) {
  CLI::App* command =
      application.add_subcommand("logits", "Run a model over token ids and save its logits");
  const auto request = std::make_shared<LogitsRequest>();
  command->add_option("--model", request->model, "Folder of Hugging Face's layout or of Meta's")
      ->required()
      ->type_name("DIR");
  command->add_option("--prompt", request->prompt, "Text, by the tokenizer of the model's folder")
      ->type_name("TEXT");
  command->add_option("--ids", request->ids, "Token ids: sequences by ';', ids by ','")
      ->type_name("IDS");
  command
      ->add_option("--input", request->input,
                   "File with input_ids [batch, seq] and maybe attention_mask")
      ->type_name("FILE");
  command->add_option("--out", request->out, "Where to write logits [batch, seq, vocab] f32")
      ->required()
      ->type_name("FILE");
  command->add_flag("--hidden-states", request->hidden_states,
                    "Also save row 0's residual stream: hidden.embed, hidden.layer.<i>, "
                    "hidden.final");
  add_inference_options(*command, request->common);
  command->get_option("--json")->description(
      "Say on stdout, as a JSON document, what was written and how long it took");
  command->footer(
      "Examples:\n"
      "  portolan logits --model DIR --ids \"1,2,3;4,5,6\" --out logits.safetensors\n"
      "  mpirun -n 2 portolan logits --model DIR --parallel sp --input batch.safetensors --out "
      "logits.safetensors");
  command->callback([request] { run_logits(*request); });
}

void add_worker_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand("compare-worker", "One job of a comparison");
  command->group("");  // started by `compare`, not by people
  const auto path = std::make_shared<std::string>();
  command->add_option("--spec", *path, "The job")->required()->type_name("FILE");
  command->callback([path] { run_worker(read_worker_specification(*path)); });
}

}  // namespace portolan
