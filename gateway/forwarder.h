// Asking the process that owns a partition, over topics: a whole HTTP request goes to topic
// "leat.requests.<role>", and the answer comes back to this process's reply topic.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "bus/bus.h"
#include "core/result.h"
#include "gateway/http_server.h"
#include "runtime/request.h"

namespace leat::gateway {

std::string RequestsTopic(std::string_view role);
// Fine when it is there. Whoever asks creates it, as well as whoever answers.
Status CreateRequestsTopic(bus::Transport* transport, std::string_view role, uint32_t partitions);

// Thread-safe. The requester must outlive it, and the answers that it streams.
class Forwarder {
 public:
  explicit Forwarder(runtime::Requester* requester) : requester_(requester) {}
  // Has the response filled in by whoever owns the partition (HttpResponse::Defer): no thread waits
  // for it. One that comes in pieces is asked for piece by piece. Errors go through SetError:
  // kUnavailable (nobody answers), kExhausted; 413 for a body that no message takes.
  void Forward(std::string_view role, uint32_t partition, const HttpRequest& request,
               HttpResponse* response) const;

 private:
  runtime::Requester* const requester_;
};

// Answers what others forward, for the partitions that this process owns. Thread-safe.
class ForwardServer {
 public:
  // `handle` is called on several threads; its request is marked as forwarded.
  ForwardServer(bus::Transport* transport, Handler handle)
      : transport_(transport), handle_(std::move(handle)) {}
  ~ForwardServer();

  // Answers what comes to one partition of a role's topic from now on.
  Status Serve(std::string_view role, uint32_t partition);
  void Stop(std::string_view role, uint32_t partition);
  // What ended the answering of a partition that it serves.
  Status error() const;

 private:
  struct Stream;
  Result<events::Event> Answer(const events::EventView& request);
  Result<events::Event> Begin(const events::EventView& request);
  // Under mutex_: the answers that nobody has asked to go on for long.
  void ForgetIdle();

  bus::Transport* const transport_;
  const Handler handle_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Stream>> streams_;  // guarded by mutex_; by name
  std::map<std::string, std::unique_ptr<runtime::Responder>> responders_;  // guarded by mutex_
};

}  // namespace leat::gateway
