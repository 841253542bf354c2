/* main of a compiled binary; the generated code defines pfq_model. */
#include "runtime/cli.h"

int main(int argc, char **argv)
{
    return pfq_main(argc, argv, &pfq_model);
}
