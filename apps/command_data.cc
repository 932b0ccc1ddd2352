#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/backend.h"
#include "apps/commands.h"
#include "core/progress.h"

namespace leat::apps {
namespace {

using nlohmann::json;

std::string Text(const json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Status Topics(const Context& context, bool as_json) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  LEAT_ASSIGN(const std::string answer, backend->Call("GET", "/api/topics"));
  if (as_json) {
    Print(answer + "\n");
    return {};
  }
  const json reply = json::parse(answer);
  for (const json& topic : reply["topics"]) {
    Print(Text(topic["topic"]) + ": " +
          core::WithThousands(topic["events"].get<uint64_t>()) + " events, " +
          std::to_string(topic["partitions"].size()) + " partition(s)" +
          (topic["owner"].is_null() ? "" : ", written by " + Text(topic["owner"])) + "\n");
  }
  return {};
}

Status Cluster(const Context& context, bool as_json) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  LEAT_ASSIGN(const std::string answer, backend->Call("GET", "/api/cluster"));
  if (as_json) {
    Print(answer + "\n");
    return {};
  }
  const json reply = json::parse(answer);
  if (reply["instances"].empty()) Print("no process serves\n");
  for (const json& instance : reply["instances"]) {
    Print(Text(instance["instance"]) +
          (instance["address"].is_null() ? "" : " on http://" + Text(instance["address"])) + "\n");
    for (const json& part : instance["parts"]) {
      const bool claimed = part["epoch"] != 0;
      Print("  " + Text(part["role"]) + "-" + Text(part["partition"]) + ": " + Text(part["state"]) +
            (claimed ? ", epoch " + Text(part["epoch"]) : "") + "\n");
    }
  }
  return {};
}

Status Lag(const Context& context, bool as_json) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  LEAT_ASSIGN(const std::string answer, backend->Call("GET", "/api/lag"));
  if (as_json) {
    Print(answer + "\n");
    return {};
  }
  const json reply = json::parse(answer);
  for (const json& part : reply["lag"]) {
    const std::string name = Text(part["role"]) + "-" + Text(part["partition"]);
    if (part["instance"].is_null()) {
      Print(name + ": nobody works on it; " + Text(part["topic"]) + " ends at " +
            core::WithThousands(part["end"].get<uint64_t>()) + "\n");
      continue;
    }
    if (part["lag"].is_null()) {
      Print(name + ": " + Text(part["state"]) + " by " + Text(part["instance"]) + "\n");
      continue;
    }
    Print(name + ": " + core::WithThousands(part["lag"].get<uint64_t>()) + " behind, at " +
          core::WithThousands(part["done"].get<uint64_t>()) + " of " +
          core::WithThousands(part["end"].get<uint64_t>()) + " in " + Text(part["topic"]) + ", " +
          Text(part["state"]) + " by " + Text(part["instance"]) + "\n");
  }
  return {};
}

struct StreamsOptions {
  std::string log;
  std::string prefix;
  std::string after;
  uint64_t limit = UINT64_MAX;
  bool json = false;
};

// All of them, page by page.
Status Streams(const Context& context, const StreamsOptions& options) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  constexpr uint64_t kPage = 1000;
  json next = options.after.empty() ? json() : json(options.after);
  uint64_t left = options.limit;
  for (bool first = true; first || (left > 0 && !next.is_null()); first = false) {
    std::string target = "/api/streams?limit=" + std::to_string(std::min(left, kPage)) +
                         "&prefix=" + gateway::PercentEncode(options.prefix);
    if (!options.log.empty()) target += "&log=" + gateway::PercentEncode(options.log);
    if (!next.is_null()) target += "&after=" + gateway::PercentEncode(Text(next));
    LEAT_ASSIGN(const std::string answer, backend->Call("GET", target));
    const json reply = json::parse(answer);
    std::string separator = !options.json ? "" : first ? "{\"streams\":[" : ",";
    if (reply["streams"].empty()) Print(separator);
    for (const json& stream : reply["streams"]) {
      Print(separator + (options.json ? stream.dump()
                                      : Text(stream["stream"]) + ": version " +
                                            Text(stream["version"]) + " in " +
                                            Text(stream["log"]) + "\n"));
      separator = options.json ? "," : "";
    }
    left -= reply["streams"].size();
    next = reply["next"];
  }
  if (options.json) {
    Print("],\"next\":" + next.dump() + "}\n");
  } else if (!next.is_null()) {
    Print("more with --after " + Text(next) + "\n");
  }
  return {};
}

struct VerifyOptions {
  std::string root;
  bool state_root = false;
  std::string at_block;
  std::string chain;
  bool json = false;
};

Status Verify(const Context& context, const VerifyOptions& options) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kIsRead));
  if (!options.at_block.empty() && !options.state_root) {
    return Invalid("--at-block: goes with --state-root", "add it, or leave the block out");
  }
  // A shard that is behind would have its log called intact, and its present root noted, before the rest is decided.
  LEAT_TRY(backend->CatchUp(nullptr));
  std::string target = "/api/admin/verify?state_root=";
  target += options.state_root ? "true" : "false";
  if (!options.root.empty()) target += "&root=" + gateway::PercentEncode(options.root);
  if (!options.at_block.empty()) target += "&at_block=" + gateway::PercentEncode(options.at_block);
  if (!options.chain.empty()) target += "&chain=" + gateway::PercentEncode(options.chain);
  LEAT_ASSIGN(const std::string answer, backend->Call("GET", target));
  const json report = json::parse(answer);
  if (options.json) {
    Print(answer + "\n");
  } else {
    for (const json& log : report["logs"]) {
      Print(Text(log["log"]) + ": " + core::WithThousands(log["events"].get<uint64_t>()) +
            " events in " + core::WithThousands(log["records"].get<uint64_t>()) +
            " commits, intact\n");
    }
    Print("note this, and give it to --root later: " + Text(report["root"]) + "\n");
    if (report.contains("state_root")) {
      const json& state = report["state_root"];
      Print("state root of block " + Text(state["block_number"]) + " over " +
            core::WithThousands(state["accounts"].get<uint64_t>()) + " accounts: " +
            Text(state["computed"]) +
            (state["same"].get<bool>() ? ", as its header says\n"
                                       : ", but its header says " + Text(state["header"]) + "\n"));
    }
  }
  if (!report.value("ok", false)) {
    return Fail(ErrorClass::kConflict, "the balances do not give the state root of the header",
                "a state root can be checked on a chain of plain accounts, complete from genesis");
  }
  return {};
}

struct RebuildOptions {
  std::string name;
  bool compare = false;
  bool json = false;
};

Status Rebuild(const Context& context, const RebuildOptions& options) {
  LEAT_ASSIGN(const auto backend, OpenBackend(context.node, Folder::kMustExist, Pipeline::kRuns));
  json out;
  Node* node = backend->node();
  if (node != nullptr && options.name == "balances" && node->partitions() == 1) {
    // In this process: with progress.
    LEAT_TRY(node->CatchUp(nullptr));
    core::Progress progress("rebuild", "events", 0);
    LEAT_ASSIGN(const auto report,
                node->balances()->Rebuild(options.compare, [&](uint64_t done, uint64_t total) {
                  progress.SetTotal(total);
                  progress.Update(done);
                }));
    out = {{"name", options.name}, {"events", report.events}};
    if (options.compare) {
      out["rows"] = report.rows;
      out["identical"] = report.identical;
      if (!report.identical) out["difference"] = report.difference;
    }
  } else {
    if (node != nullptr) LEAT_TRY(node->CatchUp(nullptr));
    LEAT_ASSIGN(const std::string answer,
                backend->Call("POST", "/api/admin/rebuild?name=" +
                                          gateway::PercentEncode(options.name) + "&compare=" +
                                          (options.compare ? "true" : "false")));
    out = json::parse(answer);
  }
  if (options.json) {
    Print(out.dump() + "\n");
  } else {
    Print("rebuilt " + Text(out["name"]) + " from " + Text(out["events"]) + " events" +
          (out.contains("identical")
               ? (out["identical"].get<bool>()
                      ? ", " + Text(out["rows"]) + " rows identical to the live version's\n"
                      : ", and it differs\n")
               : "\n"));
  }
  if (out.contains("identical") && !out["identical"].get<bool>()) {
    return Fail(ErrorClass::kConflict, "the rebuilt projection differs: " +
                                           Text(out["difference"]),
                "the live version was kept; report this");
  }
  return {};
}

}  // namespace

void AddTopics(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand("topics", "List the topics");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print JSON");
  command->callback([=] { context->run = [=] { return Topics(*context, *as_json); }; });
}

void AddCluster(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand("cluster", "Show which process serves which partitions");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print JSON");
  command->callback([=] { context->run = [=] { return Cluster(*context, *as_json); }; });
}

void AddLag(CLI::App* app, Context* context) {
  auto* command =
      app->add_subcommand("lag", "Show how far each role is behind its input, partition by partition");
  auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print JSON");
  command->callback([=] { context->run = [=] { return Lag(*context, *as_json); }; });
}

void AddStreams(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand("streams", "List the streams of every log");
  auto options = std::make_shared<StreamsOptions>();
  command->add_option("--log", options->log, "Only of this log: bus, chain.blocks or ledger.entries");
  command->add_option("--prefix", options->prefix, "Only names that begin so");
  command->add_option("--after", options->after, "Go on behind this one: LOG/NAME");
  command->add_option("--limit", options->limit, "At most so many; all by default");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([=] { context->run = [=] { return Streams(*context, *options); }; });
}

void AddVerify(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand(
      "verify", "Check every log: checksums, positions, versions, and the Merkle roots");
  auto options = std::make_shared<VerifyOptions>();
  command->add_option("--root", options->root,
                      "Roots noted earlier, LOG@SIZE:0xHASH joined by ',': the logs must still begin so")
      ->check(CheckRoot);
  command->add_flag("--state-root", options->state_root,
                    "Compute the chain's state root from the balances, compare with the header");
  command->add_option("--at-block", options->at_block, "Block of --state-root")->check(CheckBlock);
  command->add_option("--chain", options->chain, "Chain of --state-root");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([=] { context->run = [=] { return Verify(*context, *options); }; });
}

void AddProject(CLI::App* app, Context* context) {
  auto* project = app->add_subcommand("project", "Look after services' rows");
  project->require_subcommand(1);
  auto* command = project->add_subcommand(
      "rebuild", "Build a projection (balances) or a decider's rows (ledger) anew from the log");
  auto options = std::make_shared<RebuildOptions>();
  command->add_option("name", options->name, "balances or ledger")->required();
  command->add_flag("--compare", options->compare, "Compare every row with the live version");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([=] { context->run = [=] { return Rebuild(*context, *options); }; });
}

}  // namespace leat::apps
