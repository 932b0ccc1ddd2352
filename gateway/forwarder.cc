#include "gateway/forwarder.h"

#include <strings.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>

#include "core/clock.h"
#include "core/log.h"
#include "events/registry.h"
#include "gateway/api.h"
#include "gateway/v1/gateway.pb.h"

namespace leat::gateway {
namespace {

constexpr size_t kPieceBytes = 512u << 10;
constexpr size_t kStreamsMax = 64;
constexpr auto kStreamIdleMax = std::chrono::seconds(60);
constexpr auto kRetention = std::chrono::hours(1);
// What a message takes, with room for the rest of a request.
constexpr size_t kBodyBytesMax = events::kDataBytesMax - (64u << 10);
// A query may wait at the owner for what it asks for, and a submission until it is published.
constexpr auto kQueryTimeout = std::chrono::milliseconds(10'000);
constexpr auto kSubmitTimeout = std::chrono::milliseconds(120'000);
// A thread of streams waits so long for a piece; after some in vain it looks in now and then.
constexpr auto kPieceWait = std::chrono::milliseconds(20);
constexpr int kPieceWaitsMax = 5;

// Submissions are large, and whoever waits for one asks again.
constexpr uint64_t kSubmissionsLookBack = 16;

// A response keeps no content type: it wants one that lives.
std::string_view Lasting(std::string_view content_type) {
  constexpr std::string_view kKnown[] = {"application/json", "application/problem+json", "text/csv",
                                         "application/x-ndjson"};
  const auto* const found = std::find(std::begin(kKnown), std::end(kKnown), content_type);
  return found == std::end(kKnown) ? "application/octet-stream" : *found;
}

events::Event EventOf(std::string_view type, const std::string& data) {
  events::EventView view;
  view.type = type;
  view.time_us = core::SystemClock().NowUs();
  view.data = data;
  return events::Event(view);
}

Result<v1::RequestAnswered> ReadAnswer(const Result<events::Event>& reply) {
  LEAT_TRY(reply);
  v1::RequestAnswered answered;
  const auto& data = reply->view().data;
  if (reply->view().type != events::kRequestAnswered ||
      !answered.ParseFromArray(data.data(), static_cast<int>(data.size()))) {
    return Fail(ErrorClass::kUnsupported, "the answer of the partition's owner is not understood",
                "run the same version of leat everywhere");
  }
  return answered;
}

// The pieces behind the first one; the next is asked for as soon as one is there.
class Pieces : public std::enable_shared_from_this<Pieces> {
 public:
  Pieces(runtime::Requester* requester, std::string topic, uint32_t partition, std::string stream)
      : requester_(requester),
        topic_(std::move(topic)),
        partition_(partition),
        stream_(std::move(stream)) {}

  void AskNext() {
    v1::RequestForwarded forwarded;
    forwarded.set_stream(stream_);
    forwarded.set_piece(++piece_);
    runtime::AskOptions options;
    options.timeout = kQueryTimeout;
    options.partition = partition_;
    requester_->AskAsync(topic_, EventOf(events::kRequestForwarded, forwarded.SerializeAsString()),
                         options, [self = shared_from_this()](Result<events::Event> reply) {
                           auto answer = ReadAnswer(reply);
                           std::lock_guard lock(self->mutex_);
                           self->next_ = std::move(answer);
                           self->there_.notify_all();
                         });
  }

  Result<HttpResponse::Streamed> Take(std::string* chunk) {
    std::unique_lock lock(mutex_);
    if (!next_) {
      if (waits_ >= kPieceWaitsMax) {
        waits_ = 0;
        return HttpResponse::Streamed::kCaughtUp;
      }
      there_.wait_for(lock, kPieceWait, [&] { return next_.has_value(); });
      if (!next_) {
        ++waits_;
        return HttpResponse::Streamed::kMore;
      }
    }
    waits_ = 0;
    auto answer = std::move(*next_);
    next_.reset();
    lock.unlock();
    if (!answer) return std::unexpected(answer.error());
    chunk->append(answer->body());
    if (answer->stream().empty()) return HttpResponse::Streamed::kEnd;
    AskNext();
    return HttpResponse::Streamed::kMore;
  }

 private:
  runtime::Requester* const requester_;
  const std::string topic_;
  const uint32_t partition_;
  const std::string stream_;
  uint64_t piece_ = 0;
  int waits_ = 0;
  std::mutex mutex_;
  std::condition_variable there_;
  std::optional<Result<v1::RequestAnswered>> next_;  // guarded by mutex_
};

void Fill(runtime::Requester* requester, const std::string& topic, uint32_t partition,
          v1::RequestAnswered answer, HttpResponse* response) {
  response->SetStatus(std::clamp<int>(static_cast<int>(answer.status()), 200, 599));
  response->SetContentType(Lasting(answer.content_type()));
  for (const auto& header : answer.headers()) {
    // Ours has written them; another peer's that is no header's name is left out, and so is what is this server's to say.
    constexpr const char* kOurs[] = {"connection", "content-length", "content-type",
                                     "transfer-encoding"};
    const bool ours = std::any_of(std::begin(kOurs), std::end(kOurs), [&](const char* name) {
      return strcasecmp(header.name().c_str(), name) == 0;
    });
    const bool token = !ours && !header.name().empty() &&
                       std::all_of(header.name().begin(), header.name().end(), [](char c) {
                         return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-';
                       });
    if (token) response->AddHeader(header.name(), header.value());
  }
  if (answer.stream().empty()) {
    response->body() = std::move(*answer.mutable_body());
    return;
  }
  auto pieces = std::make_shared<Pieces>(requester, topic, partition, answer.stream());
  pieces->AskNext();
  response->SetStream(
      [pieces, first = std::move(*answer.mutable_body())](std::string* chunk) mutable
      -> Result<HttpResponse::Streamed> {
        if (first.empty()) return pieces->Take(chunk);
        chunk->append(first);
        first.clear();
        return HttpResponse::Streamed::kMore;
      });
}

}  // namespace

std::string RequestsTopic(std::string_view role) { return "leat.requests." + std::string(role); }

Status CreateRequestsTopic(bus::Transport* transport, std::string_view role, uint32_t partitions) {
  return transport->CreateTopic(RequestsTopic(role), partitions, {.retention = kRetention});
}

void Forwarder::Forward(std::string_view role, uint32_t partition, const HttpRequest& request,
                        HttpResponse* response) const {
  if (request.body.size() > kBodyBytesMax) {
    return response->SetProblem(
        413, "a body of " + std::to_string(request.body.size()) +
                 " bytes cannot be forwarded to the process that has role " + std::string(role) +
                 ": send " + std::to_string(kBodyBytesMax) + " at most, or send it there");
  }
  v1::RequestForwarded forwarded;
  forwarded.set_method(std::string(request.method));
  std::string target(request.path);
  if (!request.query.empty()) target.append("?").append(request.query);
  forwarded.set_target(target);
  forwarded.set_body(std::string(request.body));
  forwarded.set_content_type(std::string(request.content_type));
  forwarded.set_accept(std::string(request.accept));
  runtime::AskOptions options;
  options.partition = partition;
  options.timeout = request.method == "POST" ? kSubmitTimeout : kQueryTimeout;
  // It may have moved on its way: the next owner answers, or will when it has taken over.
  options.until_available = true;
  response->Defer([requester = requester_, role = std::string(role), options, response,
                   event = EventOf(events::kRequestForwarded, forwarded.SerializeAsString())](
                      const std::function<void()>& answered) {
    const std::string topic = RequestsTopic(role);
    requester->AskAsync(topic, event, options, [=](const Result<events::Event>& reply) {
      auto answer = ReadAnswer(reply);
      if (answer) {
        Fill(requester, topic, *options.partition, std::move(*answer), response);
      } else {
        SetError(answer.error().WithContext("role " + role + ", partition " +
                                            std::to_string(*options.partition)),
                 response);
      }
      answered();
    });
  });
}

// An answer of which a part was given; asked for the same piece again, it is given again.
struct ForwardServer::Stream {
  std::mutex mutex;
  HttpResponse::Stream source;
  uint64_t piece = 0;          // that was given last
  v1::RequestAnswered given;
  std::atomic<std::chrono::steady_clock::time_point> used;

  Status Next(const std::string& name) {
    given.Clear();
    given.set_status(200);
    std::string body, chunk;
    for (;;) {
      chunk.clear();
      LEAT_ASSIGN(const auto streamed, source(&chunk));
      body += chunk;
      if (streamed == HttpResponse::Streamed::kEnd) break;
      if (body.size() < kPieceBytes && streamed == HttpResponse::Streamed::kMore) continue;
      given.set_stream(name);
      break;
    }
    given.set_body(std::move(body));
    return {};
  }
};

ForwardServer::~ForwardServer() {
  std::map<std::string, std::unique_ptr<runtime::Responder>> stopped;
  std::lock_guard lock(mutex_);
  stopped.swap(responders_);
}

Status ForwardServer::Serve(std::string_view role, uint32_t partition) {
  runtime::ResponderOptions options;
  options.topic = RequestsTopic(role);
  options.partition = partition;
  if (role == kIngestRole) options.look_back = kSubmissionsLookBack;
  LEAT_ASSIGN(auto responder,
              runtime::Responder::Start(transport_, options, [this](const events::EventView& request) {
                return Answer(request);
              }));
  std::lock_guard lock(mutex_);
  responders_[options.topic + "/" + std::to_string(partition)] = std::move(responder);
  return {};
}

void ForwardServer::Stop(std::string_view role, uint32_t partition) {
  std::unique_ptr<runtime::Responder> stopped;
  std::lock_guard lock(mutex_);
  const auto found = responders_.find(RequestsTopic(role) + "/" + std::to_string(partition));
  if (found == responders_.end()) return;
  stopped = std::move(found->second);
  responders_.erase(found);
}

void ForwardServer::ForgetIdle() {
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(streams_, [&](const auto& one) {
    return now - one.second->used.load() > kStreamIdleMax;
  });
}

Status ForwardServer::error() const {
  std::lock_guard lock(mutex_);
  for (const auto& [topic, responder] : responders_) {
    LEAT_TRY(responder->error());
  }
  return {};
}

Result<events::Event> ForwardServer::Answer(const events::EventView& request) {
  v1::RequestForwarded forwarded;
  if (request.type != events::kRequestForwarded ||
      !forwarded.ParseFromArray(request.data.data(), static_cast<int>(request.data.size()))) {
    return Invalid("type: this topic takes " + std::string(events::kRequestForwarded));
  }
  if (forwarded.stream().empty()) return Begin(request);
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard lock(mutex_);
    ForgetIdle();
    const auto found = streams_.find(forwarded.stream());
    if (found != streams_.end()) stream = found->second;
  }
  if (stream == nullptr) {
    return Fail(ErrorClass::kNotFound, "the answer cannot be gone on with", "ask anew");
  }
  std::lock_guard lock(stream->mutex);
  stream->used = std::chrono::steady_clock::now();
  if (forwarded.piece() == stream->piece + 1) {
    if (auto next = stream->Next(forwarded.stream()); !next) {
      std::lock_guard streams(mutex_);
      streams_.erase(forwarded.stream());
      return std::unexpected(next.error());
    }
    ++stream->piece;
    if (stream->given.stream().empty()) {
      std::lock_guard streams(mutex_);
      streams_.erase(forwarded.stream());
    }
  } else if (forwarded.piece() != stream->piece) {
    return Invalid("piece: " + std::to_string(forwarded.piece()) + " is not the next one");
  }
  return EventOf(events::kRequestAnswered, stream->given.SerializeAsString());
}

Result<events::Event> ForwardServer::Begin(const events::EventView& event) {
  v1::RequestForwarded forwarded;
  forwarded.ParseFromArray(event.data.data(), static_cast<int>(event.data.size()));
  HttpRequest request;
  const std::string_view target = forwarded.target();
  request.method = forwarded.method();
  request.path = target.substr(0, target.find('?'));
  if (request.path.size() < target.size()) request.query = target.substr(request.path.size() + 1);
  request.body = forwarded.body();
  request.content_type = forwarded.content_type();
  request.accept = forwarded.accept();
  request.trusted = true;
  request.forwarded = true;
  HttpResponse response;
  handle_(request, response);
  LEAT_ASSERT(!response.deferred());  // what is forwarded is answered here
  // Whoever has the partition next may know better: the gateway asks again.
  constexpr int kServiceUnavailable = 503;
  if (response.status() == kServiceUnavailable) {
    return Fail(ErrorClass::kUnavailable, response.problem());
  }

  auto stream = std::make_shared<Stream>();
  stream->source = response.TakeStream();
  if (!stream->source) {
    // A long one goes in pieces, too.
    stream->source = [body = std::move(response.body()), at = size_t{0}](
                         std::string* chunk) mutable -> Result<HttpResponse::Streamed> {
      chunk->append(body, at, kPieceBytes);
      at += kPieceBytes;
      return at >= body.size() ? HttpResponse::Streamed::kEnd : HttpResponse::Streamed::kMore;
    };
  }
  const std::string name = core::NewUuid();
  LEAT_TRY(stream->Next(name));
  stream->given.set_status(static_cast<uint32_t>(response.status()));
  stream->given.set_content_type(std::string(response.content_type()));
  for (std::string_view lines = response.header_lines(); !lines.empty();) {
    const std::string_view line = lines.substr(0, lines.find("\r\n"));
    lines.remove_prefix(std::min(lines.size(), line.size() + 2));
    const size_t colon = line.find(": ");
    if (colon == std::string_view::npos) continue;
    auto* header = stream->given.add_headers();
    header->set_name(std::string(line.substr(0, colon)));
    header->set_value(std::string(line.substr(colon + 2)));
  }
  events::Event answer = EventOf(events::kRequestAnswered, stream->given.SerializeAsString());
  if (stream->given.stream().empty()) return answer;
  stream->used = std::chrono::steady_clock::now();
  std::lock_guard lock(mutex_);
  ForgetIdle();
  if (streams_.size() >= kStreamsMax) {
    // Whoever asks for the one that was not asked for for longest begins again.
    const auto oldest = std::min_element(
        streams_.begin(), streams_.end(),
        [](const auto& a, const auto& b) { return a.second->used.load() < b.second->used.load(); });
    streams_.erase(oldest);
  }
  streams_[name] = std::move(stream);
  return answer;
}

}  // namespace leat::gateway
