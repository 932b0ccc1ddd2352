#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/backend.h"
#include "apps/commands.h"
#include "core/progress.h"

namespace leat::apps {
namespace {

using nlohmann::json;

// One event from flags.
struct EventOptions {
  std::string type;
  std::string key;
  std::string subject;
  std::string data;
};

struct PublishOptions {
  std::string topic;
  EventOptions event;
  std::string file;
  uint32_t partitions = 0;
  bool json = false;
};

struct RequestOptions {
  std::string topic;
  EventOptions event;
  double timeout_s = 5;
  std::optional<uint32_t> partition;
  bool json = false;
};

struct ReplayOptions {
  std::string topic;
  std::string from;
  std::string since;
  std::string to;
  std::string type;
  std::string stream;
  std::string into;
  uint64_t limit = 0;
  bool follow = false;
  bool json = false;
};

std::string CheckUtf8(const std::string& text) {
  const auto replace = json::error_handler_t::replace;
  const bool same = json::parse(json(text).dump(-1, ' ', false, replace)) == text;
  return same ? "" : "is not UTF-8";
}

std::string Target(const std::string& topic, uint32_t partitions) {
  return "/api/events?topic=" + gateway::PercentEncode(topic) +
         (partitions > 0 ? "&partitions=" + std::to_string(partitions) : "");
}

// JSON as it is; JSON lines as one JSON list. Errors: kInvalid, naming the line.
Result<std::string> ListOf(const std::string& text) {
  if (json::accept(text)) return text;
  std::istringstream in(text);
  std::string line, out;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (!json::accept(line)) {
      return Invalid("line " + std::to_string(number) + " is not JSON",
                     "give one CloudEvent, a list of them, or one a line");
    }
    out += (out.empty() ? "[" : ",") + line;
  }
  if (out.empty()) return Invalid("there is nothing to publish", "give a CloudEvent in JSON");
  return out + "]";
}

// Standard input is "-".
Result<std::string> ReadAll(const std::string& flag, const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
  } else {
    std::ifstream in(path, std::ios::binary);
    if (!in) return Invalid(flag + ": " + path + " cannot be opened", "check the path");
    text << in.rdbuf();
  }
  return text.str();
}

Result<std::string> EventOf(const EventOptions& options) {
  std::string text = options.data.empty() ? "{}" : options.data;
  if (text == "-" || text.starts_with("@")) {
    LEAT_ASSIGN(text, ReadAll("--data", text == "-" ? text : text.substr(1)));
  }
  const json data = json::parse(text, nullptr, false);
  if (data.is_discarded()) return Invalid("--data: is not JSON", "quote it for the shell");
  json event = {{"specversion", "1.0"}, {"type", options.type}, {"data", data}};
  if (!options.key.empty()) event["partitionkey"] = options.key;
  if (!options.subject.empty()) event["subject"] = options.subject;
  return event.dump(-1, ' ', false, json::error_handler_t::replace);
}

Status Publish(const Context& context, const PublishOptions& options) {
  std::string body;
  if (!options.event.type.empty()) {
    LEAT_ASSIGN(body, EventOf(options.event));
  } else {
    LEAT_ASSIGN(const std::string text,
                ReadAll("--file", options.file.empty() ? "-" : options.file));
    LEAT_ASSIGN(body, ListOf(text));
  }
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMayBeNew, Pipeline::kIsRead));
  LEAT_ASSIGN(const std::string answer,
              backend->Call("POST", Target(options.topic, options.partitions), body));
  if (options.json) {
    Print(answer + "\n");
  } else {
    const json reply = json::parse(answer, nullptr, false);
    Print("published " + std::to_string(reply.value("published", uint64_t{0})) + " to " +
          options.topic + ", position " + reply.value("position", std::string()) + "\n");
  }
  return {};
}

Status Request(const Context& context, const RequestOptions& options) {
  std::string body;
  if (options.event.type.empty()) {
    LEAT_ASSIGN(body, ReadAll("standard input", "-"));
    const json event = json::parse(body, nullptr, false);
    if (!event.is_object()) {
      return Invalid("standard input: is not one CloudEvent in JSON", "or name its --type");
    }
    if (!options.event.key.empty()) {
      json keyed = event;
      keyed["partitionkey"] = options.event.key;
      body = keyed.dump(-1, ' ', false, json::error_handler_t::replace);
    }
  } else {
    LEAT_ASSIGN(body, EventOf(options.event));
  }
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMayBeNew, Pipeline::kIsRead));
  std::string target = "/api/requests?topic=" + gateway::PercentEncode(options.topic) +
                       "&timeout_ms=" + std::to_string(std::llround(options.timeout_s * 1000));
  if (options.partition) target += "&partition=" + std::to_string(*options.partition);
  LEAT_ASSIGN(const std::string answer, backend->Call("POST", target, body));
  Print(answer + "\n");
  return {};
}

Status Replay(const Context& context, const ReplayOptions& options) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  std::string target = "/api/events?format=jsonl";
  const auto add = [&](std::string_view name, const std::string& value) {
    if (!value.empty()) target += "&" + std::string(name) + "=" + gateway::PercentEncode(value);
  };
  add("topic", options.topic);
  add("from", options.from);
  add("since", options.since);
  add("to", options.to);
  add("type", options.type);
  add("stream", options.stream);
  if (options.limit > 0) add("limit", std::to_string(options.limit));
  if (options.follow) add("follow", "true");
  if (options.into.empty()) return backend->Stream(target, Print);

  if (options.into == options.topic) {
    return Invalid("--into: names the topic that is read", "name another one");
  }
  // What is read of all topics includes what was just published.
  const auto is_own = [&](const std::string& line) {
    if (!options.topic.empty()) return false;
    const json event = json::parse(line, nullptr, false);
    return event.is_object() && event.value("position", "").starts_with(options.into + "/");
  };
  // Back into a topic: line by line, in batches; ids and sources stay, positions are new.
  core::Progress progress("replay", "events", 0);
  uint64_t published = 0;
  std::string pending, batch;
  uint64_t batched = 0;
  Status failed;
  constexpr size_t kBatchBytes = 1u << 20;
  const auto publish = [&]() -> Status {
    if (batched == 0) return {};
    LEAT_TRY(backend->Call("POST", Target(options.into, 0), "[" + batch + "]"));
    published += batched;
    batch.clear();
    batched = 0;
    progress.Update(published);
    return {};
  };
  LEAT_TRY(backend->Stream(target, [&](std::string_view chunk) {
    pending += chunk;
    size_t begin = 0;
    for (size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const std::string line = pending.substr(begin, end - begin);
      if (line.empty() || is_own(line)) continue;
      batch += (batched > 0 ? "," : "") + line;
      ++batched;
      if (batch.size() >= kBatchBytes) failed = publish();
      if (!failed) return false;
    }
    pending.erase(0, begin);
    if (options.follow) failed = publish();
    return failed.has_value();
  }));
  if (failed) failed = publish();
  LEAT_TRY(failed);
  Print(options.json ? json{{"published", published}, {"topic", options.into}}.dump() + "\n"
                     : "published " + std::to_string(published) + " to " + options.into + "\n");
  return {};
}

// Flags of a single event; gives --type.
CLI::Option* AddEvent(CLI::App* command, EventOptions* options) {
  auto* type = command->add_option("--type", options->type, "Event type of a single event");
  type->check(CheckUtf8);
  command->add_option("--key", options->key, "Its partition key")->check(CheckUtf8);
  command->add_option("--subject", options->subject, "Its subject")->needs(type)->check(CheckUtf8);
  command->add_option("--data", options->data, "Its data: JSON, @FILE, or '-' for standard input")
      ->needs(type)
      ->check(CheckUtf8);
  return type;
}

}  // namespace

void AddRequest(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand(
      "request", "Ask on a topic, and print the reply: a CloudEvent in JSON from flags or standard input");
  auto options = std::make_shared<RequestOptions>();
  command->add_option("topic", options->topic, "Topic on which a service answers")->required();
  AddEvent(command, &options->event);
  command->add_option("--timeout", options->timeout_s, "Seconds to wait for the reply")
      ->check(CLI::Range(0.001, 60.0))
      ->capture_default_str();
  command->add_option("--partition", options->partition, "Partition to ask, whatever the key is");
  command->add_flag("--json", options->json, "The reply is JSON anyway");
  command->callback([=] { context->run = [=] { return Request(*context, *options); }; });
}

void AddPublish(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand(
      "publish", "Publish CloudEvents in JSON from flags, a file or standard input");
  auto options = std::make_shared<PublishOptions>();
  command->add_option("topic", options->topic, "Topic; made when it is new")->required();
  auto* type = AddEvent(command, &options->event);
  command->get_option("--key")->needs(type);
  command
      ->add_option("--file", options->file,
                   "CloudEvents in JSON: one, a list, or one a line; '-' is standard input")
      ->excludes(type);
  command->add_option("--partitions", options->partitions, "Partitions of a new topic");
  command->add_flag("--json", options->json, "Print the positions as JSON");
  command->callback([=] { context->run = [=] { return Publish(*context, *options); }; });
}

void AddReplay(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand("replay", "Read the log: one CloudEvent in JSON a line");
  auto options = std::make_shared<ReplayOptions>();
  auto* topic = command->add_option("--topic", options->topic, "One topic; all of them by default");
  auto* from = command->add_option("--from", options->from, "Position to begin with");
  from->check(CheckPosition);
  command
      ->add_option("--since", options->since,
                   "Begin with what came to the --topic at this time: RFC 3339 or seconds since 1970")
      ->excludes(from)
      ->needs(topic);
  command->add_option("--to", options->to, "Position to end with")->check(CheckPosition);
  command->add_option("--type", options->type, "Only this type; 'ledger.*' for all that begin so");
  command->add_option("--stream", options->stream,
                      "Only this stream; 'ledger-*' for a whole category");
  command->add_option("--limit", options->limit, "At most so many events")
      ->check(CLI::Range(uint64_t{1}, UINT64_MAX));
  command->add_flag("--follow", options->follow, "Go on with what comes");
  command->add_option("--into", options->into, "Publish to this topic in place of printing");
  command->add_flag("--json", options->json, "Lines are JSON anyway; with --into the outcome, too");
  command->callback([=] { context->run = [=] { return Replay(*context, *options); }; });
}

}  // namespace leat::apps
