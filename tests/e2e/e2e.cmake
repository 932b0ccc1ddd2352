# Drives the binary from outside: no product code here.
add_test(NAME e2e
  COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/e2e.py --leat $<TARGET_FILE:leat>
    --sample ${CMAKE_SOURCE_DIR}/deploy/sample)
# The README's first command.
add_test(NAME e2e_deploy_run COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/deploy_run.py)
set_tests_properties(e2e_deploy_run PROPERTIES LABELS e2e TIMEOUT 1800)
# On real brokers, which are started for it.
foreach(broker kafka rabbitmq)
  add_test(NAME e2e_${broker}
    # Debian's own, which has the package of the AMQP client.
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/brokers.py --broker ${broker} --leat $<TARGET_FILE:leat>
      --sample ${CMAKE_SOURCE_DIR}/deploy/sample)
  # Roles in processes of their own.
  add_test(NAME e2e_roles_${broker}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/roles.py --broker ${broker} --leat $<TARGET_FILE:leat>
      --sample ${CMAKE_SOURCE_DIR}/deploy/sample)
  # Each has ports of its own: several may run at a time.
  set_tests_properties(e2e_${broker} e2e_roles_${broker} PROPERTIES LABELS "e2e;crash;${broker}" TIMEOUT 7200)
endforeach()
set_tests_properties(e2e PROPERTIES LABELS e2e TIMEOUT 1200)
