# Finds torch without importing it, tries the compilers on it, and writes the build's note.

# Sets `dir` and `version` of the torch package, or `reason`.
#
# pip builds in an environment of its own, without torch. `-I` makes the same Python look past
# it into the environment that is being installed into; nothing is downloaded for the build.
function(find_torch dir version reason)
  set(found "$ENV{FASTMTE_TORCH_DIR}")
  if(NOT found)
    find_package(Python COMPONENTS Interpreter)
    execute_process(
      COMMAND
        ${Python_EXECUTABLE} -I -c
        "from importlib.util import find_spec as f; s = f('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
      OUTPUT_VARIABLE found
      ERROR_QUIET)
  endif()
  if(NOT EXISTS "${found}/include/torch/csrc/stable/library.h")
    if(found)
      set(${reason} "${found} has no headers of torch 2.11 or later" PARENT_SCOPE)
    else()
      set(${reason} "torch was not installed when fastmte was built" PARENT_SCOPE)
    endif()
    return()
  endif()
  file(STRINGS "${found}/version.py" line REGEX "^__version__")
  string(REGEX REPLACE ".*['\"](.*)['\"].*" "\\1" number "${line}")
  set(${dir} "${found}" PARENT_SCOPE)
  set(${version} "${number}" PARENT_SCOPE)
  if(number VERSION_LESS 2.11)
    set(${reason} "torch is ${number}, and the kernels need 2.11 or later" PARENT_SCOPE)
  endif()
endfunction()

# Sets `reason` when the C++ compiler cannot use torch's headers.
function(check_torch_compiles torch_dir reason)
  file(WRITE "${CMAKE_BINARY_DIR}/try.cpp"
       "#include <torch/csrc/stable/tensor.h>\nint main() { return torch::stable::Tensor().dim(); }\n")
  if(NOT APPLE)
    set(lenient "-Wl,--allow-shlib-undefined") # what torch itself links to is not asked here
  endif()
  try_compile(
    compiles "${CMAKE_BINARY_DIR}/try-cpp" "${CMAKE_BINARY_DIR}/try.cpp"
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${torch_dir}/include" "-DLINK_DIRECTORIES=${torch_dir}/lib"
    COMPILE_DEFINITIONS -DTORCH_TARGET_VERSION=0x020a000000000000
    LINK_LIBRARIES torch_cpu ${lenient}
    CXX_STANDARD 17
    OUTPUT_VARIABLE output)
  if(NOT compiles)
    message(STATUS "${output}")
    set(${reason} "${CMAKE_CXX_COMPILER} cannot compile against torch in ${torch_dir}" PARENT_SCOPE)
  endif()
endfunction()

# Sets `reason` when nvcc does not work with the C++ compiler or does not know an architecture.
function(check_cuda_compiles reason)
  file(WRITE "${CMAKE_BINARY_DIR}/try.cu"
       "__global__ void kernel() {}\nint main() { kernel<<<1, 1>>>(); }\n")
  try_compile(
    compiles "${CMAKE_BINARY_DIR}/try-cu" "${CMAKE_BINARY_DIR}/try.cu"
    CUDA_STANDARD 17
    OUTPUT_VARIABLE output)
  if(NOT compiles)
    message(STATUS "${output}")
    set(${reason} "${CMAKE_CUDA_COMPILER} cannot compile for ${CMAKE_CUDA_ARCHITECTURES}"
        PARENT_SCOPE)
  endif()
endfunction()

# Writes what was built, with what, and why the rest was not.
function(write_build_note path)
  set(note "{}")
  foreach(device CPU CUDA)
    string(TOLOWER ${device} key)
    if(${device}_REASON)
      string(JSON note SET "${note}" ${key} false)
    else()
      string(JSON note SET "${note}" ${key} true)
    endif()
    json_text(note ${key}_reason "${${device}_REASON}")
  endforeach()
  json_text(note torch "${TORCH_VERSION}")
  json_text(note compiler "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
  json_text(note nvcc "${CMAKE_CUDA_COMPILER_VERSION}")
  json_text(note cuda_archs "${CUDA_ARCHS}")
  file(WRITE "${path}" "${note}\n")
  message(STATUS "fastmte: ${note}")
endfunction()

# Sets a string member of the JSON object in the variable `object`; null where it is empty.
function(json_text object key value)
  string(STRIP "${value}" value)
  if(value STREQUAL "")
    string(JSON updated SET "${${object}}" ${key} null)
  else()
    string(REPLACE "\\" "\\\\" value "${value}")
    string(REPLACE "\"" "\\\"" value "${value}")
    string(JSON updated SET "${${object}}" ${key} "\"${value}\"")
  endif()
  set(${object} "${updated}" PARENT_SCOPE)
endfunction()
