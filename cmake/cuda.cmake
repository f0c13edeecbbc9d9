# cuda.cmake - which CUDA backend is built, by CAIRN_CUDA: auto, on, off or sim.
#
# Sets CAIRN_CUDA_BACKEND (on, off, sim) and CAIRN_CUDA_SUMMARY (a line for people). For `on` also
# CAIRN_CUDA_CODE (what CMake's CUDA_ARCHITECTURES takes), the texts ..._SHOWN for --version, and,
# where cuDNN was found, CAIRN_CUDNN_INCLUDE and CAIRN_CUDNN_LIBRARY.

set(CAIRN_CUDA_OLDEST_TOOLKIT 12.4)

# Generations with a reason: 75 Turing, the oldest that toolkit 13 compiles for; 80 A100; 86 RTX 30;
# 89 RTX 40, L4; 90 H100; 100 B200; 120 RTX 50.
set(CAIRN_CUDA_GENERATIONS 75 80 86 89 90 100 120)

# ---- the toolkit ----

# Is there all that the backend needs? Sets `missing` to what is not.
macro(cairn_look_for_cuda)
    set(missing "")
    find_package(CUDAToolkit ${CAIRN_CUDA_OLDEST_TOOLKIT} QUIET)
    if(NOT CUDAToolkit_FOUND)
        set(missing "no CUDA toolkit ${CAIRN_CUDA_OLDEST_TOOLKIT} or newer was found")
    elseif(NOT TARGET CUDA::cudart_static OR NOT TARGET CUDA::cublas)
        set(missing "the toolkit in ${CUDAToolkit_LIBRARY_DIR} lacks cudart_static or cublas")
    else()
        # nvcc need not be on the PATH. Named in the environment and not in CMAKE_CUDA_COMPILER:
        # with that set, check_language would not try whether it works.
        if(NOT DEFINED ENV{CUDACXX})
            set(ENV{CUDACXX} ${CUDAToolkit_NVCC_EXECUTABLE})
        endif()
        include(CheckLanguage)
        check_language(CUDA)
        if(NOT CMAKE_CUDA_COMPILER)
            set(missing "nvcc ${CUDAToolkit_VERSION} does not work (it needs a C++ compiler)")
        endif()
    endif()
endmacro()

# ---- what nvcc compiles for ----

# Real code for the known generations that the toolkit has, and PTX of the newest for what comes
# later.
function(cairn_choose_architectures)
    set(code ${CAIRN_CUDA_ARCHITECTURES})
    if(NOT code)
        execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code
                        OUTPUT_VARIABLE known ERROR_QUIET)
        foreach(generation IN LISTS CAIRN_CUDA_GENERATIONS)
            if(known MATCHES "sm_${generation}[^0-9a-z]")
                list(APPEND code ${generation}-real)
                set(newest ${generation})
            endif()
        endforeach()
        list(TRANSFORM code REPLACE "^${newest}-real$" ${newest})
    endif()
    set(shown "")
    foreach(one IN LISTS code)
        string(REGEX MATCH "^[0-9]+[a-z]?" number ${one})
        string(APPEND shown "sm_${number} ")
        if(NOT one MATCHES "-real$")
            set(ptx " and PTX")
        endif()
    endforeach()
    string(STRIP "${shown}" shown)
    set(CAIRN_CUDA_CODE "${code}" PARENT_SCOPE)
    set(CAIRN_CUDA_CODE_SHOWN "${shown}${ptx}" PARENT_SCOPE)
endfunction()

# ---- cuDNN, for hidden sizes above the fused kernels' ----

function(cairn_look_for_cudnn)
    find_path(CAIRN_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDNN_PATH
              PATH_SUFFIXES include)
    find_library(CAIRN_CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} ENV CUDNN_PATH
                 PATH_SUFFIXES lib lib64)
    set(version "")
    if(CAIRN_CUDNN_INCLUDE AND CAIRN_CUDNN_LIBRARY)
        file(STRINGS ${CAIRN_CUDNN_INCLUDE}/cudnn_version.h lines
             REGEX "^#define CUDNN_(MAJOR|MINOR) +[0-9]+")
        list(TRANSFORM lines REPLACE "^.* +" "")
        list(JOIN lines "." version)
    endif()
    if(version VERSION_GREATER_EQUAL 9.0)
        set(CAIRN_CUDNN_SHOWN "cuDNN ${version}" PARENT_SCOPE)
    else()
        set(CAIRN_CUDNN_INCLUDE "" PARENT_SCOPE)
        set(CAIRN_CUDNN_LIBRARY "" PARENT_SCOPE)
        set(CAIRN_CUDNN_SHOWN "no cuDNN" PARENT_SCOPE)
    endif()
endfunction()

# ---- the decision ----

set(CAIRN_CUDA_BACKEND off)
if(CAIRN_CUDA STREQUAL "off")
    set(CAIRN_CUDA_SUMMARY "off")
elseif(CAIRN_CUDA STREQUAL "sim")
    enable_language(CXX)
    set(CAIRN_CUDA_BACKEND sim)
    set(CAIRN_CUDA_SUMMARY "SIMULATED device, for tests")
elseif(CAIRN_CUDA MATCHES "^(auto|on)$")
    cairn_look_for_cuda()
    if(NOT missing)
        cairn_choose_architectures()
        set(CMAKE_CUDA_ARCHITECTURES "${CAIRN_CUDA_CODE}")
        enable_language(CUDA)
        cairn_look_for_cudnn()
        set(CAIRN_CUDA_BACKEND on)
        string(REGEX MATCH "^[0-9]+\\.[0-9]+" CAIRN_CUDA_TOOLKIT_SHOWN ${CUDAToolkit_VERSION})
        set(CAIRN_CUDA_SUMMARY
            "toolkit ${CAIRN_CUDA_TOOLKIT_SHOWN}, ${CAIRN_CUDNN_SHOWN}, ${CAIRN_CUDA_CODE_SHOWN}")
    elseif(CAIRN_CUDA STREQUAL "on")
        message(FATAL_ERROR "CAIRN_CUDA=on: ${missing}")
    else()
        set(CAIRN_CUDA_SUMMARY "off: ${missing}")
    endif()
else()
    message(FATAL_ERROR "CAIRN_CUDA is ${CAIRN_CUDA}; it takes auto, on, off or sim")
endif()
