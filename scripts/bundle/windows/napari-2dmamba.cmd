@echo off
rem Starts the app; see docs/install.md.
setlocal
set PYTHONHOME=
set PYTHONPATH=
set PYTHONNOUSERSITE=1
set QT_PLUGIN_PATH=
set QT_API=pyside6
"%~dp0python\python.exe" -I -m napari_2dmamba.cli %*
exit /b %errorlevel%
