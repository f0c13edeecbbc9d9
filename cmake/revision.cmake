# Which commit is being built: cairn_revision(<target> <stem>) writes <stem>.h, which sources of <target>
# include, with every build (CAIRN_REVISION, a text): the commit's first twelve digits, "-dirty" behind them
# where tracked files differ from it, or "unknown" where the sources are no checkout of their own, as those of
# an archive. The header changes only when the text does, so that nothing is compiled for nothing.
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
set(CAIRN_REVISION_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(cairn_revision target stem)
    set(generated ${PROJECT_BINARY_DIR}/generated)
    set(header ${generated}/${stem}.h)
    add_custom_target(${target}_revision
        COMMAND ${CMAKE_COMMAND} "-DGIT=${GIT_EXECUTABLE}" "-DSOURCE=${PROJECT_SOURCE_DIR}" "-DHEADER=${header}"
            -P ${CAIRN_REVISION_SCRIPT}
        BYPRODUCTS ${header} COMMENT "" VERBATIM)
    add_dependencies(${target} ${target}_revision)
    target_include_directories(${target} PRIVATE ${generated})
endfunction()
