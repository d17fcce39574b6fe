// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "apps/compare_environment.hpp"
#include "apps/compare_settings.hpp"
#include "apps/launch.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

CompareSettings settings_of(const CompareOptions& options, int cores = 8) {
  return resolve_settings(options, cores, "20250102-030405");
}

TEST(CompareSettings, DefaultsAreThePublishedExperimentsSizes) {
  const CompareSettings settings = settings_of({});
  EXPECT_EQ(settings.preset, "llama-7b");
  EXPECT_EQ(settings.layers, 2);
  EXPECT_EQ(settings.batch, 2);
  EXPECT_EQ(settings.seq_lens, (std::vector<std::int64_t>{256, 512, 1024}));
  EXPECT_EQ(settings.modes, (std::vector<std::string>{"none", "tp", "sp", "ring"}));
  EXPECT_EQ(settings.dtypes, (std::vector<std::string>{"f32", "bf16"}));
  EXPECT_EQ(settings.ranks, std::vector<int>{2});
  EXPECT_EQ(settings.warmup, 1);
  EXPECT_EQ(settings.repeat, 3);
  EXPECT_EQ(settings.cores, 8);
  EXPECT_EQ(settings.out, "compare-20250102-030405");
}

TEST(CompareSettings, QuickIsSmallerButKeepsAllModesAndYieldsToWhatIsTyped) {
  CompareOptions options;
  options.quick = true;
  options.layers = "3";
  const CompareSettings settings = settings_of(options);
  EXPECT_EQ(settings.modes.size(), 4u);
  EXPECT_EQ(settings.dtypes.size(), 2u);
  EXPECT_EQ(settings.layers, 3);
  EXPECT_EQ(settings.batch, 1);
  EXPECT_LT(settings.seq_lens.back(), 512);
}

TEST(CompareSettings, NumbersAreSortedAndMayNotRepeat) {
  CompareOptions options;
  options.seq_lens = "64,16,32";
  EXPECT_EQ(settings_of(options).seq_lens, (std::vector<std::int64_t>{16, 32, 64}));
  options.seq_lens = "16,016";
  EXPECT_THROW(static_cast<void>(settings_of(options)), UsageError);
}

TEST(CompareSettings, RanksMayNotExceedCoresUnlessAllowed) {
  CompareOptions options;
  options.ranks = "16";
  EXPECT_THROW(static_cast<void>(settings_of(options, 8)), UsageError);
  EXPECT_EQ(settings_of(options, 16).ranks, std::vector<int>{16});
  options.oversubscribe = true;
  EXPECT_EQ(settings_of(options, 8).ranks, std::vector<int>{16});
  options.modes = "none";
  options.oversubscribe = false;
  EXPECT_NO_THROW(static_cast<void>(settings_of(options, 8))) << "none starts one rank only";
}

TEST(CompareSettings, EveryJobGetsTheSameCores) {
  EXPECT_EQ(equal_cores(8, {2, 4}), 8);
  EXPECT_EQ(equal_cores(7, {2}), 6);
  EXPECT_EQ(equal_cores(80, {3, 8}), 72);
  EXPECT_EQ(equal_cores(2, {2}), 2);
  EXPECT_EQ(equal_cores(2, {4}), 2) << "more ranks than cores leaves them as they are";
  EXPECT_EQ(equal_cores(6, {4, 6}), 6) << "no number of cores suits both";
}

TEST(CompareJobs, EachModeAndDtypeRunsOnceAndCoresAreShared) {
  CompareOptions options;
  options.ranks = "2,4";
  const CompareSettings settings = settings_of(options, 9);
  std::multiset<std::string> found;
  for (const CompareJob& job : plan_jobs(settings)) {
    found.insert(job.mode + " " + job.dtype + " " + std::to_string(job.ranks));
    EXPECT_EQ(job.ranks * job.threads, 8);
  }
  EXPECT_EQ(found, (std::multiset<std::string>{"none f32 1", "tp f32 2", "tp f32 4", "sp f32 2",
                                               "sp f32 4", "ring f32 2", "ring f32 4",
                                               "none bf16 1", "tp bf16 2", "tp bf16 4", "sp bf16 2",
                                               "sp bf16 4", "ring bf16 2", "ring bf16 4"}));
}

TEST(CompareJobs, OrderDependsOnTheSeedAloneAndStartsWithTheCheapestDtype) {
  CompareOptions options;
  std::set<std::string> orders;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    options.common.seed = seed;
    std::string order;
    const auto jobs = plan_jobs(settings_of(options));
    for (const CompareJob& job : jobs) order += job.to_string() + "; ";
    EXPECT_EQ(jobs.front().dtype, "bf16");
    const auto again = plan_jobs(settings_of(options));
    EXPECT_TRUE(std::equal(
        jobs.begin(), jobs.end(), again.begin(), again.end(),
        [](const CompareJob& a, const CompareJob& b) { return a.to_string() == b.to_string(); }));
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 15u);
}

TEST(CompareJobs, PublishedProtocolIsOneJobPerDtypeWithRowsOfBothModes) {
  CompareOptions options;
  options.protocol = "published";
  options.dtypes = "f32";
  const auto jobs = plan_jobs(settings_of(options));
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].mode, "sp");
  EXPECT_EQ(jobs[0].row_modes(), (std::vector<std::string>{"sp", "tp"}));
}

TEST(CompareJobs, SerialDeviceHasOneThreadPerRank) {
  CompareOptions options;
  options.common.device = DeviceKind::serial;
  for (const CompareJob& job : plan_jobs(settings_of(options))) EXPECT_EQ(job.threads, 1);
}

TEST(CompareJobs, SpecificationSaysWhatTheWorkerNeeds) {
  const CompareSettings settings = settings_of({});
  const CompareJob job{"tp", "bf16", Protocol::fair, 2, 4};
  const auto specification = job_specification(settings, job, "/tmp/r.json", "/tmp/s.safetensors");
  EXPECT_EQ(specification["preset"], "llama-7b");
  EXPECT_EQ(specification["mode"], "tp");
  EXPECT_EQ(specification["dtype"], "bf16");
  EXPECT_EQ(specification["threads"], 4);
  EXPECT_EQ(specification["protocol"], "fair");
  EXPECT_EQ(specification["result"], "/tmp/r.json");
  EXPECT_EQ(specification["samples"], "/tmp/s.safetensors");
}

std::vector<std::string> arguments_of(Launcher::Kind kind, bool oversubscribe) {
  return launch_arguments({kind, "/bin/launch", ""}, {2, 4, oversubscribe, {"program", "--spec"}});
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

TEST(Launch, EachLauncherIsToldRanksAndNoBinding) {
  for (const auto kind : {Launcher::Kind::open_mpi, Launcher::Kind::mpirun, Launcher::Kind::srun}) {
    const auto arguments = arguments_of(kind, false);
    EXPECT_EQ(arguments[0], "/bin/launch");
    EXPECT_EQ(arguments[1], "-n");
    EXPECT_EQ(arguments[2], "2");
    EXPECT_EQ(arguments[arguments.size() - 2], "program");
    EXPECT_EQ(arguments.back(), "--spec");
  }
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::open_mpi, false), "--bind-to"));
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::mpirun, false), "-bind-to"));
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::srun, false), "--cpu-bind=none"));
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::srun, false), "--cpus-per-task=4"));
  // srun by itself lets the other ranks wait for one that has failed.
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::srun, false), "--kill-on-bad-exit=1"));
}

TEST(Launch, OversubscriptionIsOnlySaidWhenNeeded) {
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::open_mpi, true), "--oversubscribe"));
  EXPECT_FALSE(contains(arguments_of(Launcher::Kind::open_mpi, false), "--oversubscribe"));
  EXPECT_TRUE(contains(arguments_of(Launcher::Kind::srun, true), "--overcommit"));
  EXPECT_FALSE(contains(arguments_of(Launcher::Kind::srun, false), "--overcommit"));
}

TEST(Launch, EnvironmentSetsThreadsAndAllowsRootOnlyWhereItIsNeeded) {
  const LaunchRequest request{2, 4, false, {}};
  const auto variables = launch_environment({Launcher::Kind::open_mpi, "", ""}, request, true);
  EXPECT_EQ(variables.at("OMP_NUM_THREADS"), "4");
  EXPECT_EQ(variables.at("OMP_PROC_BIND"), "false");
  EXPECT_EQ(variables.at("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1");
  EXPECT_FALSE(launch_environment({Launcher::Kind::open_mpi, "", ""}, request, false)
                   .contains("OMPI_ALLOW_RUN_AS_ROOT"));
  EXPECT_FALSE(launch_environment({Launcher::Kind::srun, "", ""}, request, true)
                   .contains("OMPI_ALLOW_RUN_AS_ROOT"));
}

TEST(CompareEnvironment, CommandLineCanBePastedIntoAShell) {
  EXPECT_EQ(shell_text({"portolan", "compare", "--seq-lens", "8,16"}),
            "portolan compare --seq-lens 8,16");
  EXPECT_EQ(shell_text({"a b", "", "it's", "$HOME"}), "'a b' '' 'it'\\''s' '$HOME'");
}

TEST(CompareEnvironment, OnlyVariablesThatMatterAreKept) {
  EXPECT_TRUE(is_relevant_variable("OMP_NUM_THREADS"));
  EXPECT_TRUE(is_relevant_variable("KOKKOS_NUM_THREADS"));
  EXPECT_TRUE(is_relevant_variable("SLURM_NTASKS"));
  EXPECT_FALSE(is_relevant_variable("HOME"));
  EXPECT_FALSE(is_relevant_variable("AWS_SECRET_ACCESS_KEY"));
}

TEST(ChooseLayout, EachWayToSayAMeshIsUnderstood) {
  CommonOptions options;
  EXPECT_EQ(choose_layout(options, 1).mesh.ranks(), 1);
  options.parallel = ParallelMode::ring;
  EXPECT_EQ(choose_layout(options, 3).mesh.context, 3);
  options.parallel = ParallelMode::sp;
  EXPECT_EQ(choose_layout(options, 2).mesh.tensor, 2);
  EXPECT_TRUE(choose_layout(options, 2).sequence_parallel);
  options.parallel.reset();
  options.tensor_parallel = 2;
  options.context_parallel = 3;
  EXPECT_EQ(choose_layout(options, 6).mesh.tensor, 2);
  EXPECT_EQ(choose_layout(options, 6).mesh.context, 3);
  EXPECT_FALSE(choose_layout(options, 6).sequence_parallel);
  options.sequence_parallel = true;
  EXPECT_TRUE(choose_layout(options, 6).sequence_parallel);
}

TEST(ChooseLayout, ContradictionsAreRefused) {
  const auto refuses = [](const CommonOptions& options, int ranks) {
    EXPECT_THROW(static_cast<void>(choose_layout(options, ranks)), UsageError);
  };
  CommonOptions options;
  refuses(options, 2);
  options.tensor_parallel = 2;
  refuses(options, 3);
  options.parallel = ParallelMode::tp;
  refuses(options, 2);
  options = {};
  options.parallel = ParallelMode::ring;
  options.sequence_parallel = true;
  refuses(options, 2);
  options.parallel.reset();
  options.context_parallel = 2;
  refuses(options, 2);
}

TEST(ChooseLayout, WithoutRanksTheOptionsSayHowManyThereAre) {
  CommonOptions options;
  EXPECT_EQ(choose_planned_layout(options).mesh.ranks(), 1);
  options.tensor_parallel = 2;
  options.context_parallel = 3;
  EXPECT_EQ(choose_planned_layout(options).mesh.ranks(), 6);
  options.planned_ranks = 6;
  EXPECT_THROW(static_cast<void>(choose_planned_layout(options)), UsageError);
  options = {};
  options.planned_ranks = 4;
  EXPECT_THROW(static_cast<void>(choose_planned_layout(options)), UsageError);
  options.parallel = ParallelMode::ring;
  EXPECT_EQ(choose_planned_layout(options).mesh.context, 4);
  options.planned_ranks.reset();
  EXPECT_THROW(static_cast<void>(choose_planned_layout(options)), UsageError);
}

TEST(RunOptions, WhatADeviceWouldNotHeedIsRefused) {
  CommonOptions options;
  options.threads = 4;
  options.attention_tiles = "tiles.json";
  EXPECT_NO_THROW(check_run_options(options));
  options.device = DeviceKind::cuda;
  EXPECT_THROW(check_run_options(options), UsageError);
  options.attention_tiles.clear();
  EXPECT_NO_THROW(check_run_options(options));
  options.device = DeviceKind::serial;
  EXPECT_THROW(check_run_options(options), UsageError);
  options.threads = 1;
  EXPECT_NO_THROW(check_run_options(options));
}

TEST(OptionValues, IntegersAreReadToTheLastCharacter) {
  EXPECT_EQ(parse_integer("--n", "12", 1, 20), 12);
  for (const char* text :
       {"", " 12", "12 ", "12k", "0x12", "+12", "1e1", "21", "0", "99999999999999999999"}) {
    EXPECT_THROW(static_cast<void>(parse_integer("--n", text, 1, 20)), UsageError) << text;
  }
}

}  // namespace
}  // namespace portolan
