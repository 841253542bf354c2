# What the compiler carries inside itself: kernel templates as LLVM bitcode (one per ISA variant) and as text, the
# runtime's ABI header, and the runtime archive. Everything goes into pfqc_codegen through .incbin; codegen/embed.c
# finds it by name ("avx2/norm.bc", "cpu/norm.c", "cuda/norm.cu", "abi.h", "libpfqrt.a").
set(PFQC_LLVM_DIR /usr/lib/llvm-19 CACHE PATH "LLVM 19, whose version is part of pfqc's output")
find_program(PFQC_CLANG clang PATHS ${PFQC_LLVM_DIR}/bin NO_DEFAULT_PATH REQUIRED)
find_library(PFQC_LLVM LLVM-19 PATHS ${PFQC_LLVM_DIR}/lib NO_DEFAULT_PATH REQUIRED)
target_include_directories(pfqc_codegen SYSTEM PUBLIC ${PFQC_LLVM_DIR}/include)
target_link_libraries(pfqc_codegen PUBLIC ${PFQC_LLVM} ${CMAKE_DL_LIBS})

# Passes stay off (the constants are not known yet), optimisation on (so that nothing is marked optnone).
set(template_flags -std=gnu17 -O3 -Xclang -disable-llvm-passes -fPIC -fno-ident -fno-builtin -fno-math-errno -fno-trapping-math
                   -ffp-contract=off -mprefer-vector-width=512 -Wall -Wextra -Wshadow -Werror)
set(template_includes ${CMAKE_BINARY_DIR}/inc/templates)
file(MAKE_DIRECTORY ${template_includes}/runtime ${template_includes}/codegen)
file(CREATE_LINK ${CMAKE_SOURCE_DIR}/runtime/abi.h ${template_includes}/runtime/abi.h SYMBOLIC)
file(CREATE_LINK ${CMAKE_SOURCE_DIR}/codegen/cpu ${template_includes}/codegen/cpu SYMBOLIC)

set(embed_asm "    .section .rodata\n")
set(embed_table "")
set(embed_deps "")
set(embed_n 0)
macro(embed name path)
  string(APPEND embed_asm "    .balign 64\n.Lb${embed_n}: .incbin \"${path}\"\n.Le${embed_n}:\n.Ln${embed_n}: .asciz \"${name}\"\n")
  string(APPEND embed_table "    .quad .Ln${embed_n}, .Lb${embed_n}, .Le${embed_n} - .Lb${embed_n}\n")
  list(APPEND embed_deps ${path})
  math(EXPR embed_n "${embed_n} + 1")
endmacro()

file(GLOB templates CONFIGURE_DEPENDS codegen/cpu/*.c)
file(GLOB template_headers CONFIGURE_DEPENDS codegen/cpu/*.h)
# A row of variants.def: sets `variant` (its name) and `march` (clang's options for it).
macro(pfqc_variant row)
  string(REGEX MATCH "^X\\(([a-z0-9]+), \"([^\"]+)\", \"([^\"]*)\"" _ "${row}")
  set(variant ${CMAKE_MATCH_1})
  set(march -march=${CMAKE_MATCH_2})
  string(REPLACE "," ";" features "${CMAKE_MATCH_3}")
  foreach(f ${features})
    string(REGEX REPLACE "^\\+" "-m" f "${f}")
    list(APPEND march ${f})
  endforeach()
endmacro()

file(STRINGS codegen/variants.def variant_rows REGEX "^X\\(")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS codegen/variants.def)
foreach(row ${variant_rows})
  pfqc_variant("${row}")
  foreach(src ${templates})
    get_filename_component(base ${src} NAME_WE)
    set(bc ${CMAKE_BINARY_DIR}/templates/${variant}/${base}.bc)
    add_custom_command(
      OUTPUT ${bc}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/templates/${variant}
      COMMAND ${PFQC_CLANG} ${template_flags} ${march} -I${template_includes} -MD -MF ${bc}.d -MT ${bc}
              -emit-llvm -c ${src} -o ${bc}
      DEPENDS ${src} codegen/embed.cmake DEPFILE ${bc}.d
      COMMENT "template ${base} for ${variant}" VERBATIM)
    embed(${variant}/${base}.bc ${bc})
  endforeach()
endforeach()
foreach(src ${templates} ${template_headers})
  get_filename_component(file ${src} NAME)
  embed(cpu/${file} ${src})
endforeach()
file(GLOB cuda_templates CONFIGURE_DEPENDS codegen/cuda/*.cu codegen/cuda/*.cuh)
foreach(src ${cuda_templates})
  get_filename_component(file ${src} NAME)
  embed(cuda/${file} ${src})
endforeach()
embed(abi.h ${CMAKE_SOURCE_DIR}/runtime/abi.h)
embed(libpfqrt.a ${CMAKE_BINARY_DIR}/libpfqrt.a)

set(embed_file ${CMAKE_BINARY_DIR}/embed.S)
file(GENERATE OUTPUT ${embed_file} CONTENT "${embed_asm}
    .section .data.rel.ro, \"aw\"
    .balign 8
    .globl cg_embedded
    .hidden cg_embedded
cg_embedded:
${embed_table}    .quad 0, 0, 0
    .section .note.GNU-stack, \"\", @progbits
")
set_source_files_properties(${embed_file} PROPERTIES GENERATED TRUE OBJECT_DEPENDS "${embed_deps}")
target_sources(pfqc_codegen PRIVATE ${embed_file})
add_dependencies(pfqc_codegen pfqrt)
