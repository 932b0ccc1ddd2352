#include "apps/backend.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <semaphore>
#include <thread>

#include "bus/partitioner.h"
#include "chain/v1/chain.pb.h"
#include "core/bytes.h"
#include "gateway/http_client.h"

namespace leat::apps {
namespace {

using nlohmann::json;

// A problem document as the error it describes.
Error ErrorOf(int status, std::string_view body) {
  const json problem = json::parse(body, nullptr, false);
  std::string detail;
  if (problem.is_object() && problem.contains("detail") && problem["detail"].is_string()) {
    detail = problem["detail"].get<std::string>();
  }
  if (detail.empty()) detail = "the server answered " + std::to_string(status);
  const auto error_class = status == 404   ? ErrorClass::kNotFound
                           : status == 409 ? ErrorClass::kConflict
                           : status == 503 ? ErrorClass::kUnavailable
                           : status == 507 ? ErrorClass::kExhausted
                           : status < 500  ? ErrorClass::kInvalid
                                           : ErrorClass::kInternal;
  return Error{error_class, detail, {}};
}

// What both backends ask for in the same way.
class CallingBackend : public Backend {
 protected:
  Result<ingest::FeedReport> SubmitByCall(const std::vector<chain::v1::BlockObserved>& blocks) {
    ingest::FeedReport report;
    if (blocks.empty()) return report;
    std::string body;
    for (const auto& block : blocks) core::AppendString(block.SerializeAsString(), &body);
    LEAT_ASSIGN(const json reply,
                CallForObject("POST", "/api/admin/blocks?chain=" +
                                          gateway::PercentEncode(blocks.front().chain()), body));
    report.observed = Count(reply, "observed");
    report.reverted = Count(reply, "reverted");
    report.sidelined = Count(reply, "sidelined");
    report.known = Count(reply, "known");
    return report;
  }
  Result<bool> KnowsByCall(std::string_view chain, const Hash& hash) {
    LEAT_ASSIGN(const json reply,
                CallForObject("GET", "/api/admin/known?chain=" + gateway::PercentEncode(chain) +
                                         "&hash=" + hash.Hex(), {}));
    const auto known = reply.find("known");
    return known != reply.end() && *known == true;
  }
  Result<json> CallForObject(std::string_view method, std::string_view target,
                             std::string_view body) {
    LEAT_ASSIGN(const std::string text, Call(method, target, body));
    json reply = json::parse(text, nullptr, false);
    if (reply.is_object()) return reply;
    return Fail(ErrorClass::kUnsupported,
                "the server's answer to " + std::string(target.substr(0, target.find('?'))) +
                    " is not understood",
                "use the same version of leat as the server");
  }
  static uint64_t Count(const json& reply, const char* name) {
    const auto found = reply.find(name);
    return found != reply.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
  }
};

class RemoteBackend final : public CallingBackend {
 public:
  explicit RemoteBackend(eventstore::ServerAddress address)
      : address_(std::move(address)),
        client_(address_.host, address_.port, kTimeout),
        patient_client_(address_.host, address_.port, gateway::HttpClient::kNoTimeout) {}

  Result<std::string> Call(std::string_view method, std::string_view target,
                           std::string_view body) override {
    // What reads whole logs is answered when it is done.
    const bool takes_long = target.starts_with("/api/admin/verify") ||
                            target.starts_with("/api/admin/rebuild");
    gateway::HttpClient& client = takes_long ? patient_client_ : client_;
    LEAT_ASSIGN(auto reply, client.Request(method, target, body,
                                           body.empty() ? "" : "application/json",
                                           address_.token));
    if (reply.status >= 300) return std::unexpected(ErrorOf(reply.status, reply.body));
    return std::move(reply.body);
  }
  Status Stream(std::string_view target,
                const std::function<bool(std::string_view)>& on_chunk) override {
    // Blank lines are the server's heartbeats.
    bool line_begins = true;
    std::string lines;
    const auto on_piece = [&](std::string_view piece) {
      lines.clear();
      for (const char c : piece) {
        if (c != '\n' || !line_begins) lines.push_back(c);
        line_begins = c == '\n';
      }
      return lines.empty() || on_chunk(lines);
    };
    // A connection of its own: what takes the lines may call meanwhile.
    gateway::HttpClient client(address_.host, address_.port, kTimeout);
    LEAT_ASSIGN(const auto reply, client.Stream("GET", target, on_piece, {}, {}, address_.token));
    if (reply.status >= 300) return std::unexpected(ErrorOf(reply.status, reply.body));
    return {};
  }
  Result<ingest::FeedReport> SubmitBlocks(
      const std::vector<chain::v1::BlockObserved>& blocks) override {
    return SubmitByCall(blocks);
  }
  Result<bool> KnowsBlock(std::string_view chain, const Hash& hash) override {
    return KnowsByCall(chain, hash);
  }
  Status CatchUp(const std::function<void(uint64_t, uint64_t)>& progress) override {
    // What is published meanwhile is not waited for.
    struct Goal {
      std::optional<uint64_t> blocks, decided;
    };
    std::vector<Goal> goals;
    for (;;) {
      LEAT_ASSIGN(const json reply, CallForObject("GET", "/api/admin/progress", {}));
      const auto found = reply.find("partitions");
      if (found == reply.end() || !found->is_array()) {
        return Fail(ErrorClass::kUnsupported, "the server does not tell its progress",
                    "use the same version of leat as the server");
      }
      goals.resize(found->size());
      uint64_t applied = 0, decided = 0;
      bool reached = true;
      for (size_t i = 0; i < goals.size(); ++i) {
        const json& at = (*found)[i];
        Goal& goal = goals[i];
        if (!goal.blocks && at.value("blocks_published", false)) goal.blocks = Count(at, "blocks");
        if (goal.blocks && !goal.decided && Count(at, "ledger_applied") >= *goal.blocks &&
            at.value("published", false)) {
          goal.decided = Count(at, "decided");
        }
        applied += Count(at, "balances_applied");
        decided += Count(at, "decided");
        reached &= goal.decided && Count(at, "balances_applied") >= *goal.decided;
      }
      if (progress) progress(applied, decided);
      if (reached) return {};
      constexpr auto kPollInterval = std::chrono::milliseconds(100);
      std::this_thread::sleep_for(kPollInterval);  // another process: there is nothing to wait on
    }
  }
  Node* node() override { return nullptr; }

 private:
  static constexpr auto kTimeout = std::chrono::minutes(10);

  const eventstore::ServerAddress address_;
  gateway::HttpClient client_;
  gateway::HttpClient patient_client_;
};

class LocalBackend final : public CallingBackend {
 public:
  explicit LocalBackend(std::unique_ptr<Node> node)
      : node_(std::move(node)) {}

  Result<std::string> Call(std::string_view method, std::string_view target,
                           std::string_view body) override {
    std::string out;
    LEAT_TRY(Run(method, target, body, [&](std::string_view chunk) {
      out += chunk;
      return true;
    }));
    return out;
  }
  Status Stream(std::string_view target,
                const std::function<bool(std::string_view)>& on_chunk) override {
    return Run("GET", target, {}, on_chunk);
  }
  Result<ingest::FeedReport> SubmitBlocks(
      const std::vector<chain::v1::BlockObserved>& blocks) override {
    // What this process owns needs no text.
    const uint32_t partition =
        blocks.empty() ? 0 : bus::PartitionOf(blocks.front().chain(), node_->partitions());
    if (node_->Owns(gateway::kIngestRole, partition)) {
      constexpr auto kPublishedMax = std::chrono::minutes(2);
      return node_->feed(partition)->SubmitAndPublish(blocks, kPublishedMax);
    }
    return SubmitByCall(blocks);
  }
  Result<bool> KnowsBlock(std::string_view chain, const Hash& hash) override {
    return KnowsByCall(chain, hash);
  }
  Status CatchUp(const std::function<void(uint64_t, uint64_t)>& progress) override {
    return node_->CatchUp(progress);
  }
  Node* node() override { return node_.get(); }

 private:
  Status Run(std::string_view method, std::string_view target, std::string_view body,
             const std::function<bool(std::string_view)>& on_chunk) {
    gateway::HttpRequest request;
    request.method = method;
    const size_t mark = target.find('?');
    request.path = target.substr(0, mark);
    if (mark != std::string_view::npos) request.query = target.substr(mark + 1);
    request.body = body;
    request.content_type = "application/json";
    request.loopback = true;
    request.trusted = true;
    const auto kept = std::make_shared<gateway::HttpResponse>();
    gateway::HttpResponse& response = *kept;
    node_->api().Handle(request, response);
    if (const auto begin = response.TakeDeferred()) {
      constexpr auto kStep = std::chrono::milliseconds(100);
      const auto answered = std::make_shared<std::binary_semaphore>(0);
      begin([answered, kept] { answered->release(); });  // it may come when nobody waits any more
      // What has failed here for good is nobody else's to answer.
      while (!answered->try_acquire_for(kStep)) LEAT_TRY(node_->Error());
    }
    if (response.status() >= 300) {
      return std::unexpected(ErrorOf(response.status(), response.body()));
    }
    auto stream = response.TakeStream();
    if (!stream) {
      on_chunk(response.body());
      return {};
    }
    std::string chunk;
    for (;;) {
      chunk.clear();
      LEAT_ASSIGN(const auto streamed, stream(&chunk));
      if (!chunk.empty() && !on_chunk(chunk)) return {};
      if (streamed == gateway::HttpResponse::Streamed::kEnd) return {};
      if (streamed == gateway::HttpResponse::Streamed::kCaughtUp) {
        constexpr auto kIdle = std::chrono::milliseconds(20);
        std::this_thread::sleep_for(kIdle);  // following: nothing new on any of several topics
      }
    }
  }

  const std::unique_ptr<Node> node_;
};

}  // namespace

Result<std::unique_ptr<Backend>> OpenBackend(const NodeOptions& options, Folder folder,
                                             Pipeline pipeline) {
  // On a broker there is something to ask whatever lies on this machine.
  const bool on_broker = !options.transport.name.empty() && options.transport.name != "embedded";
  if (folder == Folder::kMustExist && !on_broker && !std::filesystem::exists(options.data + "/format")) {
    return Fail(ErrorClass::kNotFound, "there is no data folder at " + options.data,
                "name one with --data, or make one by ingesting or publishing");
  }
  LEAT_ASSIGN(auto server, eventstore::FindServer(options.data));
  if (server) return std::make_unique<RemoteBackend>(std::move(*server));
  NodeOptions opened = options;
  opened.use = pipeline == Pipeline::kIsRead ? Use::kRead : Use::kRun;
  LEAT_ASSIGN(auto node, Node::Open(opened));
  return std::make_unique<LocalBackend>(std::move(node));
}

}  // namespace leat::apps
