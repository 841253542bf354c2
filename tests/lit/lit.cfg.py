# lit's configuration. CMake runs lit once per test file with -D: pfqc, filecheck (programs) and out (a folder for temporaries).
import lit.formats

config.name = "pfqc"
config.test_format = lit.formats.ShTest(execute_external=True)
config.suffixes = [".pfir", ".test"]
config.test_exec_root = lit_config.params["out"]
config.substitutions.append(("%pfqc", lit_config.params["pfqc"]))
config.substitutions.append(("%filecheck", lit_config.params["filecheck"]))
