# Which commit is being built: cairn_revision(<target>...) lets sources of these targets include
# "host/revision.h", which every build writes. CAIRN_REVISION, a text, is the commit's first twelve digits,
# "-dirty" behind them where tracked files differ from it, or "unknown" where the sources are no checkout of
# their own, as those of an archive. The header changes only when the text does, so that nothing is compiled
# for nothing.
#
# As a script (cmake -DGIT= -DSOURCE= -DHEADER= -P revision.cmake) this file writes the header.
if(CMAKE_SCRIPT_MODE_FILE)
    cmake_minimum_required(VERSION 3.25)
    set(revision "")
    if(GIT AND EXISTS "${SOURCE}/.git") # and not a repository around the sources
        execute_process(
            COMMAND ${CMAKE_COMMAND} -E env --unset=GIT_DIR --unset=GIT_WORK_TREE
                "${GIT}" --no-optional-locks describe --always --dirty --abbrev=12 --exclude=*
            WORKING_DIRECTORY "${SOURCE}" OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE
            ERROR_QUIET)
    endif()
    if(NOT revision MATCHES "^[0-9a-f]+(-dirty)?$")
        set(revision unknown)
    endif()
    file(CONFIGURE OUTPUT "${HEADER}" CONTENT "#define CAIRN_REVISION \"${revision}\"\n" @ONLY)
    return()
endif()

find_package(Git QUIET)
set(CAIRN_GENERATED ${PROJECT_BINARY_DIR}/generated)
add_custom_target(cairn_revision
    COMMAND ${CMAKE_COMMAND} "-DGIT=${GIT_EXECUTABLE}" "-DSOURCE=${PROJECT_SOURCE_DIR}"
        "-DHEADER=${CAIRN_GENERATED}/host/revision.h" -P ${CMAKE_CURRENT_LIST_FILE}
    BYPRODUCTS ${CAIRN_GENERATED}/host/revision.h COMMENT "" VERBATIM)

function(cairn_revision)
    foreach(target IN LISTS ARGN)
        add_dependencies(${target} cairn_revision)
        target_include_directories(${target} PRIVATE ${CAIRN_GENERATED})
    endforeach()
endfunction()
