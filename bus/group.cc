#include "bus/group.h"

#include <string>

#include "events/position.h"

namespace leat::bus {
namespace {

Status CheckName(std::string_view what, std::string_view name) {
  if (name.size() <= kGroupBytesMax && events::CheckTopicName(name)) return {};
  return Invalid(
      "\"" + std::string(name.substr(0, 64)) + "\" is not a name of a " + std::string(what),
      "use 1 to " + std::to_string(kGroupBytesMax) + " letters, digits, '.', '_' and '-'");
}

}  // namespace

Status CheckGroup(std::string_view topic, std::string_view group, std::string_view instance) {
  LEAT_TRY(events::CheckTopicName(topic));
  LEAT_TRY(CheckName("group", group));
  return CheckName("member of a group", instance);
}

std::unexpected<Error> NotToBeReleased(uint32_t partition) {
  return Invalid("partition " + std::to_string(partition) + " is not to be released",
                 "release what Share::to_release names");
}

std::unexpected<Error> SameInstance(std::string_view group, std::string_view instance) {
  return Fail(ErrorClass::kConflict,
              "group " + std::string(group) + " has another member " + std::string(instance),
              "give every member a name of its own, or end the other process");
}

}  // namespace leat::bus
