# The architecture descriptions inside pfqc: every frontend/arch/NAME.json goes into pfqc_frontend through .incbin;
# frontend/arch.c finds it by name in fe_arch_files.
file(GLOB arch_files CONFIGURE_DEPENDS frontend/arch/*.json)
set(arch_asm "")
set(arch_table "")
set(arch_n 0)
foreach(path ${arch_files})
  get_filename_component(name ${path} NAME_WE)
  string(APPEND arch_asm ".Lb${arch_n}: .incbin \"${path}\"\n.Le${arch_n}: .byte 0\n.Ln${arch_n}: .asciz \"${name}\"\n")
  string(APPEND arch_table "    .quad .Ln${arch_n}, .Lb${arch_n}, .Le${arch_n} - .Lb${arch_n}\n")
  math(EXPR arch_n "${arch_n} + 1")
endforeach()
set(arch_embed ${CMAKE_BINARY_DIR}/gen/frontend/arch_files.S)
file(GENERATE OUTPUT ${arch_embed} CONTENT "    .section .rodata
${arch_asm}
    .section .data.rel.ro, \"aw\"
    .balign 8
    .globl fe_arch_files
    .hidden fe_arch_files
fe_arch_files:
${arch_table}    .quad 0, 0, 0
    .section .note.GNU-stack, \"\", @progbits
")
set_source_files_properties(${arch_embed} PROPERTIES GENERATED TRUE OBJECT_DEPENDS "${arch_files}")
target_sources(pfqc_frontend PRIVATE ${arch_embed})
