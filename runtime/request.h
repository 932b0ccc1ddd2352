// Request and reply over topics. Who asks publishes an event to a request topic and names, in
// CloudEvents extensions, the topic that the reply is to go to and the moment after which nobody
// waits for it. Who answers publishes an event there whose correlationid is the request's id.
// Delivery is at least once: a request that is not answered is published again, so what a handler
// does has to come to the same when it is done twice.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "bus/bus.h"
#include "core/clock.h"
#include "core/result.h"
#include "events/event.h"

namespace leat::runtime {

// The extensions: a topic's name, and RFC 3339.
inline constexpr std::string_view kReplyToAttribute = "replyto";
inline constexpr std::string_view kExpiryTimeAttribute = "expirytime";
// Of a reply topic's name: nothing is replied to any other.
inline constexpr std::string_view kRepliesPrefix = "leat.replies.";

inline constexpr size_t kRequestsInFlightMax = 4096;
inline constexpr size_t kRequestsInFlightBytesMax = 256u << 20;  // of data and extensions
inline constexpr size_t kReplyBytesMax = 1u << 20;  // of data
inline constexpr auto kRequestTimeoutDefault = std::chrono::milliseconds(5'000);
inline constexpr auto kRequestTimeoutMax = std::chrono::milliseconds(600'000);
inline constexpr auto kRepliesRetention = std::chrono::hours(1);
// Before what was refused for the moment is asked again; doubled each time, up to the second.
inline constexpr auto kRefusedPause = std::chrono::milliseconds(100);
inline constexpr auto kRefusedPauseMax = std::chrono::milliseconds(2'000);
// Before a request is published again; doubled each time, up to the second.
inline constexpr auto kRepeatPauseMin = std::chrono::milliseconds(500);
inline constexpr auto kRepeatPauseMax = std::chrono::milliseconds(8'000);
// A deadline is seen so much later at most.
inline constexpr auto kDeadlineTick = std::chrono::milliseconds(100);

// Errors: kInvalid: 1 to 64 letters, digits, '-' and '_', of which the first is a letter.
Status CheckInstanceName(std::string_view instance);

struct AskOptions {
  std::chrono::milliseconds timeout = kRequestTimeoutDefault;  // up to kRequestTimeoutMax
  std::optional<uint32_t> partition;                           // nothing: by the request's key
  // A reply that says that it may pass (kUnavailable) is not the last word: it is asked again, until
  // the timeout.
  bool until_available = false;
};

// Asks, and reads the answers from a topic of its own, "leat.replies.<instance>". One per process.
// Thread-safe. Owns its threads; the transport and the clock must outlive it.
class Requester {
 public:
  using Answer = std::function<void(Result<events::Event>)>;

  // Creates the reply topic if need be. Errors: kInvalid (instance), and the transport's.
  static Result<std::unique_ptr<Requester>> Open(bus::Transport* transport,
                                                 std::string_view instance,
                                                 const core::Clock& clock = core::SystemClock());
  // As Stop, and waits for the threads.
  ~Requester();

  // The reply, or the error that it brings. A request without id, time or source is given them, the
  // reply topic as its source; while one is under way, its id is taken. Without an answer it is
  // published again and again, until the timeout. Errors: kUnavailable (none came in time),
  // kNotFound (no such topic or partition), kConflict (the topic has an owner; a request of this id
  // is under way), kExhausted (kRequestsInFlightMax, kRequestsInFlightBytesMax, kReplyBytesMax), kInvalid, and what the
  // answering service says.
  Result<events::Event> Ask(const std::string& topic, const events::Event& request,
                            const AskOptions& options = {});
  // The same without waiting: `done` is called once, from any thread, and may have been when this
  // returns. It must be quick, and must not destroy the requester.
  void AskAsync(const std::string& topic, const events::Event& request, const AskOptions& options,
                Answer done);
  // Who waits gets kUnavailable, and so does who asks from now on.
  void Stop();

  const std::string& reply_topic() const;

 private:
  class Impl;
  explicit Requester(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Requests that a Responder begins before the end of the topic with: those that came while nobody
// answered.
inline constexpr uint64_t kRequestsLookBackMax = 1000;
// Requests of which it knows that they were answered, and how much their replies take: asked again,
// they get the same reply.
inline constexpr size_t kRepliesKeptMax = 4096;
inline constexpr size_t kRepliesKeptBytesMax = 16u << 20;

struct ResponderOptions {
  std::string topic;
  uint32_t partition = 0;
  // Nothing: `look_back` before the end, and of these what has an expirytime. Some of it
  // may have been answered by whoever was there before, and is handled again.
  std::optional<uint64_t> from;
  uint64_t look_back = kRequestsLookBackMax;
  std::string source = "leat";  // of replies that have none
  unsigned threads = 2;         // that run the handler
  // Requests that wait for them, and bytes of their data; whoever comes then is refused with kUnavailable.
  size_t waiting_max = 1024;
  size_t waiting_bytes_max = 64u << 20;
};

// Answers the requests on one partition of a topic. Owns its threads; the transport and the clock
// must outlive it, and what the handler refers to, too.
class Responder {
 public:
  // Called by several threads at a time. The reply's type and data are enough: the rest is filled
  // in. An error becomes the reply runtime.request_failed.v1.
  using Handler = std::function<Result<events::Event>(const events::EventView& request)>;

  // Errors: kNotFound (no such topic or partition), and the transport's.
  static Result<std::unique_ptr<Responder>> Start(bus::Transport* transport,
                                                  const ResponderOptions& options, Handler handler,
                                                  const core::Clock& clock = core::SystemClock());
  // Waits for handlers that run, and publishes their replies. What still waits is not answered: it
  // will be asked again.
  ~Responder();

  // What stopped it, if something did. Thread-safe.
  Status error() const;

 private:
  class Impl;
  explicit Responder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::runtime
