# Protocol buffers in C, by protobuf-c: cairn_proto(<target> <file.proto>...) makes <file>.pb-c.h and
# <file>.pb-c.c of .proto files of the current source directory and compiles them into <target>, whose
# sources include "<room>/<file>.pb-c.h".
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c>=1.3)
find_program(PROTOC_C protoc-c)
if(NOT PROTOC_C)
    message(FATAL_ERROR "protoc-c is missing (Debian: protobuf-c-compiler)")
endif()

function(cairn_proto target)
    set(generated ${PROJECT_BINARY_DIR}/generated)
    file(MAKE_DIRECTORY ${generated})
    foreach(name IN LISTS ARGN)
        set(proto ${CMAKE_CURRENT_SOURCE_DIR}/${name})
        cmake_path(RELATIVE_PATH proto BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE stem)
        cmake_path(REMOVE_EXTENSION stem)
        set(outputs ${generated}/${stem}.pb-c.c ${generated}/${stem}.pb-c.h)
        add_custom_command(OUTPUT ${outputs}
            COMMAND ${PROTOC_C} --proto_path=${PROJECT_SOURCE_DIR} --c_out=${generated} ${proto}
            DEPENDS ${proto} VERBATIM)
        # Generated code is not ours to warn about.
        set_source_files_properties(${outputs} PROPERTIES COMPILE_OPTIONS -w)
        target_sources(${target} PRIVATE ${outputs})
    endforeach()
    target_include_directories(${target} SYSTEM PRIVATE ${generated})
    target_link_libraries(${target} PRIVATE PkgConfig::PROTOBUF_C)
endfunction()
