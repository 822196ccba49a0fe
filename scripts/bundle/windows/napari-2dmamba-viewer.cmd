@echo off
rem Starts the viewer without a console; slides may be dropped on this file.
setlocal
set PYTHONHOME=
set PYTHONPATH=
set PYTHONNOUSERSITE=1
set QT_PLUGIN_PATH=
set QT_API=pyside6
start "" "%~dp0python\pythonw.exe" -I -m napari_2dmamba.cli view %*
