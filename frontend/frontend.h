/* The frontend: checkpoints, model.json, tokenizers and chat templates -> IR module and blobs. Public
 * header for pfqc.c.
 *
 *   fe_init            a checkpoint -> model.json                      init.h
 *   fe_model_load      model.json -> module and choices                model.h
 *   fe_tokenizer_load  tokenizer files -> blob for runtime/tokenizer.h tokenizer.h
 *   fe_template_load   chat templates -> blob for runtime/template.h   template.h
 *   fe_text_load       text -> tokens to calibrate on                  calib_text.h
 *   fe_arch_list       names of the supported families                 arch.h
 */
#ifndef PFQC_FRONTEND_FRONTEND_H
#define PFQC_FRONTEND_FRONTEND_H

#include "frontend/arch.h"
#include "frontend/calib_text.h"
#include "frontend/init.h"
#include "frontend/model.h"
#include "frontend/template.h"
#include "frontend/tokenizer.h"

#endif
