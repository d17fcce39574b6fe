// SPDX-License-Identifier: Apache-2.0
#include "apps/subprocess.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "core/error.hpp"
#include "core/file_descriptor.hpp"

namespace portolan {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kTick = std::chrono::milliseconds(200);
/// A program that has closed its streams is about to end.
constexpr auto kShortTick = std::chrono::milliseconds(5);
/// mpirun needs a moment to pass a SIGTERM on and to collect its ranks.
constexpr auto kGrace = std::chrono::seconds(5);

[[noreturn]] void fail(const char* call) {
  throw Error(fmt::format("{} failed: {}", call, std::strerror(errno)));
}

std::pair<FileDescriptor, FileDescriptor> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("pipe2");
  return {FileDescriptor(ends[0]), FileDescriptor(ends[1])};
}

/// Signals that ask this process to end become readable from a descriptor while it lives.
class EndRequests {
 public:
  EndRequests() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int each : {SIGINT, SIGTERM, SIGHUP}) {
      // One that is ignored (nohup, a shell's background job) stays ignored.
      struct sigaction action {};
      if (::sigaction(each, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) {
        sigaddset(&signals, each);
      }
    }
    if (::sigprocmask(SIG_BLOCK, &signals, &previous_) != 0) fail("sigprocmask");
    descriptor_ = FileDescriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!descriptor_.is_open()) {
      ::sigprocmask(SIG_SETMASK, &previous_, nullptr);
      fail("signalfd");
    }
  }
  EndRequests(const EndRequests&) = delete;
  EndRequests& operator=(const EndRequests&) = delete;
  ~EndRequests() { ::sigprocmask(SIG_SETMASK, &previous_, nullptr); }

  [[nodiscard]] int descriptor() const { return descriptor_.get(); }
  [[nodiscard]] const sigset_t& previous_mask() const { return previous_; }
  /// The signal that came, or 0.
  [[nodiscard]] int take() const {
    signalfd_siginfo information{};
    const auto count = ::read(descriptor_.get(), &information, sizeof(information));
    return count == sizeof(information) ? static_cast<int>(information.ssi_signo) : 0;
  }

 private:
  sigset_t previous_{};
  FileDescriptor descriptor_;
};

/// Orphans among the descendants become children of this process while it lives, so that they can
/// be found: Open MPI puts each rank into a process group of its own, where killpg does not reach.
class Subreaper {
 public:
  Subreaper() {
    ::prctl(PR_GET_CHILD_SUBREAPER, &previous_);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  Subreaper(const Subreaper&) = delete;
  Subreaper& operator=(const Subreaper&) = delete;
  ~Subreaper() { ::prctl(PR_SET_CHILD_SUBREAPER, previous_); }

 private:
  int previous_ = 0;
};

std::optional<pid_t> parent_of(const std::filesystem::path& process) {
  std::ifstream file(process / "stat");
  std::string text;
  std::getline(file, text);
  const std::size_t name_end = text.rfind(')');  // the name may hold anything, spaces included
  int parent = 0;
  if (name_end == std::string::npos ||
      std::sscanf(text.c_str() + name_end + 1, " %*c %d", &parent) != 1) {
    return std::nullopt;
  }
  return parent;
}

std::vector<pid_t> descendants_of(const std::vector<pid_t>& roots) {
  std::vector<std::pair<pid_t, pid_t>> processes;  // process, parent
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (const auto parent = parent_of(entry.path()))
      processes.emplace_back(std::stoi(name), *parent);
  }
  std::vector<pid_t> found = roots;
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (const auto& [process, parent] : processes) {
      if (parent == found[i]) found.push_back(process);
    }
  }
  return found;
}

/// Children of this process that were not there at the start: orphans that the subreaper inherited.
std::vector<pid_t> children_except(const std::vector<pid_t>& known) {
  std::vector<pid_t> children;
  const pid_t self = ::getpid();
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (parent_of(entry.path()) != self) continue;
    const pid_t process = std::stoi(name);
    if (std::find(known.begin(), known.end(), process) == known.end()) children.push_back(process);
  }
  return children;
}

class LineSplitter {
 public:
  void append(std::string_view bytes, const std::function<void(std::string_view)>& use) {
    pending_.append(bytes);
    std::size_t start = 0;
    for (std::size_t end = 0; (end = pending_.find('\n', start)) != std::string::npos;
         start = end + 1) {
      emit(std::string_view(pending_).substr(start, end - start), use);
    }
    pending_.erase(0, start);
  }
  void finish(const std::function<void(std::string_view)>& use) {
    if (!pending_.empty()) emit(pending_, use);
    pending_.clear();
  }

 private:
  static void emit(std::string_view line, const std::function<void(std::string_view)>& use) {
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (use) use(line);
  }
  std::string pending_;
};

struct Stream {
  FileDescriptor descriptor;
  LineSplitter lines;
  const std::function<void(std::string_view)>* use = nullptr;

  /// Reads what is there; closes at the end.
  void drain() {
    std::array<char, 65536> buffer{};
    const auto count = ::read(descriptor.get(), buffer.data(), buffer.size());
    if (count > 0) {
      lines.append({buffer.data(), static_cast<std::size_t>(count)}, *use);
    } else if (count == 0 || (errno != EINTR && errno != EAGAIN)) {
      descriptor.reset();
      lines.finish(*use);
    }
  }
};

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> variables;
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string_view variable(*each);
    if (!added.contains(std::string(variable.substr(0, variable.find('='))))) {
      variables.emplace_back(variable);
    }
  }
  for (const auto& [name, value] : added) variables.push_back(name + "=" + value);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

FileDescriptor input_file(const std::string& text) {
  FileDescriptor file(::memfd_create("portolan-input", MFD_CLOEXEC));
  if (!file.is_open()) fail("memfd_create");
  for (std::size_t done = 0; done < text.size();) {
    const auto count = ::write(file.get(), text.data() + done, text.size() - done);
    if (count < 0) fail("write");
    done += static_cast<std::size_t>(count);
  }
  if (::lseek(file.get(), 0, SEEK_SET) != 0) fail("lseek");
  return file;
}

/// The running program. Its destructor leaves nothing of it behind.
class Child {
 public:
  Child(const ProcessRequest& request, const sigset_t& signal_mask, int input, int output,
        int error)
      : known_children_(children_except({})) {
    auto arguments = request.arguments;
    auto variables = merged_environment(request.environment);
    const auto argument_pointers = pointers(arguments);
    const auto variable_pointers = pointers(variables);
    auto [status_reader, status_writer] = make_pipe();
    const pid_t parent = ::getpid();
    process_ = ::fork();
    if (process_ < 0) fail("fork");
    if (process_ == 0) {
      // Only calls that are safe after fork, then exec. The group keeps the terminal's Ctrl-C away.
      ::setpgid(0, 0);
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      const bool orphaned = ::getppid() != parent;
      ::sigprocmask(SIG_SETMASK, &signal_mask, nullptr);
      if (!orphaned && ::dup2(input, 0) == 0 && ::dup2(output, 1) == 1 && ::dup2(error, 2) == 2) {
        ::execve(argument_pointers[0], argument_pointers.data(), variable_pointers.data());
      }
      const int reason = errno;
      [[maybe_unused]] const auto count = ::write(status_writer.get(), &reason, sizeof(reason));
      ::_exit(127);
    }
    ::setpgid(process_, process_);
    status_writer.reset();
    int reason = 0;
    if (::read(status_reader.get(), &reason, sizeof(reason)) == sizeof(reason)) {
      ::waitpid(process_, nullptr, 0);
      process_ = -1;
      throw Error(
          fmt::format("{}: cannot be started: {}", request.arguments[0], std::strerror(reason)));
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    end();
    kill_orphans();
  }

  /// True once it has ended; its status is then known.
  bool poll() {
    if (!status_ && ::waitpid(process_, &status_.emplace(), WNOHANG) <= 0) status_.reset();
    return status_.has_value();
  }
  [[nodiscard]] int status() const { return *status_; }

  /// SIGTERM, a few seconds, SIGKILL to it and all its descendants.
  void end() {
    if (process_ < 0 || poll()) return;
    ::kill(process_, SIGTERM);
    for (const auto deadline = Clock::now() + kGrace; Clock::now() < deadline;) {
      if (poll()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    for (const pid_t each : descendants_of({process_})) ::kill(each, SIGKILL);
    if (::waitpid(process_, &status_.emplace(), 0) < 0) status_.emplace(0);
  }

 private:
  /// A killed parent hands its children over one generation at a time, so this repeats until none
  /// are left.
  void kill_orphans() const {
    for (int round = 0; round < 100; ++round) {
      const auto orphans = children_except(known_children_);
      if (orphans.empty()) return;
      for (const pid_t each : descendants_of(orphans)) ::kill(each, SIGKILL);
      for (const pid_t each : orphans) ::waitpid(each, nullptr, 0);
    }
  }

  std::vector<pid_t> known_children_;
  pid_t process_ = -1;
  std::optional<int> status_;
};

}  // namespace

std::string ProcessResult::describe() const {
  if (interrupted_by != 0) {
    return fmt::format("interrupted by signal {} ({})", interrupted_by, strsignal(interrupted_by));
  }
  if (timed_out) return fmt::format("no sign of life for {:g} s", silence_limit_s);
  if (signal != 0) return fmt::format("ended by signal {} ({})", signal, strsignal(signal));
  return fmt::format("exit code {}", exit_code);
}

ProcessResult run_process(const ProcessRequest& request) {
  const Subreaper subreaper;
  const EndRequests end_requests;
  auto [output_reader, output_writer] = make_pipe();
  auto [error_reader, error_writer] = make_pipe();
  ProcessResult result;
  result.silence_limit_s = request.silence_limit_s;
  {
    FileDescriptor input = input_file(request.input);
    Child child(request, end_requests.previous_mask(), input.get(), output_writer.get(),
                error_writer.get());
    input.reset();
    output_writer.reset();
    error_writer.reset();
    std::array<Stream, 2> streams;
    streams[0].descriptor = std::move(output_reader);
    streams[0].use = &request.on_output;
    streams[1].descriptor = std::move(error_reader);
    streams[1].use = &request.on_error;

    auto last_sign = Clock::now();
    auto ended_at = last_sign;
    bool ended = false;
    while (true) {
      std::array<pollfd, 3> watched{pollfd{streams[0].descriptor.get(), POLLIN, 0},
                                    pollfd{streams[1].descriptor.get(), POLLIN, 0},
                                    pollfd{end_requests.descriptor(), POLLIN, 0}};
      const bool was_ended = ended;
      const bool closed = !streams[0].descriptor.is_open() && !streams[1].descriptor.is_open();
      const auto wait = was_ended ? std::chrono::milliseconds(0) : closed ? kShortTick : kTick;
      const int ready = ::poll(watched.data(), watched.size(), static_cast<int>(wait.count()));
      bool got_bytes = false;
      for (std::size_t i = 0; i < streams.size(); ++i) {
        if (streams[i].descriptor.is_open() && watched[i].revents != 0) {
          streams[i].drain();
          got_bytes = true;
        }
      }
      if (got_bytes) last_sign = Clock::now();
      if (watched[2].revents != 0) result.interrupted_by = end_requests.take();
      const std::chrono::duration<double> silence = Clock::now() - last_sign;
      if (request.silence_limit_s > 0 && silence.count() > request.silence_limit_s) {
        result.timed_out = true;
      }
      if (!ended && (result.timed_out || result.interrupted_by != 0)) child.end();
      // What an ended program leaves in the pipes is read; what its orphans may add is not awaited.
      if (was_ended && (!got_bytes || Clock::now() > ended_at + kGrace)) break;
      ended = child.poll();
      if (!was_ended) ended_at = Clock::now();
      if (ready <= 0 && request.on_idle) request.on_idle();
    }
    for (Stream& stream : streams) stream.lines.finish(*stream.use);
    if (WIFEXITED(child.status())) {
      result.exit_code = WEXITSTATUS(child.status());
    } else {
      result.signal = WTERMSIG(child.status());
    }
  }
  return result;
}

}  // namespace portolan
