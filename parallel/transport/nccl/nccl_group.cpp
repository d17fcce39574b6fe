// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/nccl/nccl_group.hpp"

#include <exception>
#include <utility>

#include "parallel/transport/nccl/nccl_status.hpp"

namespace portolan {
namespace {

/// Events of the device's backend are CUDA's.
cudaEvent_t event_of(const Event& event) { return static_cast<cudaEvent_t>(event.handle()); }

Event record(cudaStream_t stream) {
  cudaEvent_t made = nullptr;
  check_cuda_call(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "making an event");
  Event event(std::shared_ptr<void>(
      made, [](void* handle) { cudaEventDestroy(static_cast<cudaEvent_t>(handle)); }));
  check_cuda_call(cudaEventRecord(made, stream), "recording the end of a collective");
  return event;
}

}  // namespace

NcclGroup::HostCall::HostCall(CollectiveWatch& watch, std::string_view operation) {
  watch.started(operation, [ended = ended_] { return ended->load(); });
}

NcclGroup::NcclGroup(Communicator& host, Device device, NcclPatience patience)
    : rank_(host.rank()),
      size_(host.size()),
      device_(device),
      patience_(std::move(patience)),
      exceptions_at_start_(std::uncaught_exceptions()),
      watch_(patience_.deadline, patience_.lost) {
  check_cuda_call(cudaSetDevice(device.index), "selecting GPU {}", device.index);
  cudaStream_t stream = nullptr;
  check_cuda_call(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                  "making a stream on GPU {}", device.index);
  stream_.reset(stream);
  ncclUniqueId identity{};
  if (rank_ == 0) check_nccl(ncclGetUniqueId(&identity), nullptr, "naming a group of NCCL");
  host.broadcast(Tensor::borrow(&identity, {static_cast<std::int64_t>(sizeof(identity))}, DType::u8,
                                Device{DeviceKind::cpu, 0}),
                 0);
  const HostCall call(watch_, "the start of NCCL");
  check_nccl(ncclCommInitRank(&group_, size_, identity, rank_), nullptr,
             "starting NCCL on rank {} of {}", rank_, size_);
}

NcclGroup::~NcclGroup() {
  if (std::uncaught_exceptions() > exceptions_at_start_) {
    ncclCommAbort(group_);  // waits for nobody
    return;
  }
  const HostCall call(watch_, "the end of NCCL");
  cudaStreamSynchronize(stream_.get());
  ncclCommDestroy(group_);
}

Event NcclGroup::start(std::string_view operation, const Calls& calls) {
  Backend& backend = backend_of(device_);
  const Event before = backend.record(Queue::compute);
  check_cuda_call(cudaStreamWaitEvent(stream_.get(), event_of(before), 0), "ordering {} on rank {}",
                  operation, rank_);
  {
    const HostCall call(watch_, operation);  // the first one connects to peers
    check_nccl(ncclGroupStart(), group_, "{} on rank {} of {}", operation, rank_, size_);
    const ncclResult_t started = calls(group_, stream_.get());
    const ncclResult_t grouped = ncclGroupEnd();
    check_nccl(started, group_, "{} on rank {} of {}", operation, rank_, size_);
    check_nccl(grouped, group_, "{} on rank {} of {}", operation, rank_, size_);
  }
  const Event end = record(stream_.get());
  // An error is an end, too: the next call of CUDA reports it.
  watch_.started(operation, [end] { return cudaEventQuery(event_of(end)) != cudaErrorNotReady; });
  return end;
}

void NcclGroup::run(std::string_view operation, const Calls& calls) {
  backend_of(device_).wait(Queue::compute, start(operation, calls));
}

}  // namespace portolan
