# SPDX-License-Identifier: MIT
from Cython.Build import cythonize
from setuptools import Extension, setup

import qg

setup(ext_modules=cythonize([Extension("wordcount", ["wordcount.pyx"], include_dirs=[qg.get_include()])]))
