//! The cells of the comparison: a shape of load over a transport.

use std::path::Path;

use anyhow::Result;

use crate::address::Address;
use crate::load::Shape;

/// One cell: all contenders meet the same load in it.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Name in tables, and for `--cells`.
    pub name: &'static str,
    /// Connections and ids.
    pub shape: Shape,
    /// Unix socket or TCP.
    pub is_tcp: bool,
    /// Generator and server on the server's core, so that no core sleeps between two requests.
    pub shares_core: bool,
}

impl Cell {
    /// A fresh address of the cell's transport.
    pub fn address(&self, directory: &Path, name: &str) -> Result<Address> {
        if self.is_tcp { Address::free_tcp() } else { Ok(Address::unix_in(directory, name)) }
    }
}

/// All cells, in the order of the tables.
pub const CELLS: [Cell; 10] = [
    cell(UNIX_KEPT, Shape::Kept(64), false, false),
    cell(UNIX_MUX, Shape::Multiplexed(1, 64), false, false),
    cell(UNIX_PER_REQUEST, Shape::PerRequest(16), false, false),
    cell("unix kept:1", Shape::Kept(1), false, false),
    cell("unix kept:1, one core", Shape::Kept(1), false, true),
    cell("tcp kept:64", Shape::Kept(64), true, false),
    cell("tcp mux:1x64", Shape::Multiplexed(1, 64), true, false),
    cell("tcp per-request:16", Shape::PerRequest(16), true, false),
    cell("tcp kept:1", Shape::Kept(1), true, false),
    cell("tcp kept:1, one core", Shape::Kept(1), true, true),
];

/// 64 kept connections over a Unix socket.
pub const UNIX_KEPT: &str = "unix kept:64";
/// One connection with 64 ids over a Unix socket.
pub const UNIX_MUX: &str = "unix mux:1x64";
/// A connection per request over a Unix socket, 16 at a time.
pub const UNIX_PER_REQUEST: &str = "unix per-request:16";

const fn cell(name: &'static str, shape: Shape, is_tcp: bool, shares_core: bool) -> Cell {
    Cell { name, shape, is_tcp, shares_core }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_the_cells_are() {
        for cell in CELLS {
            let transport = if cell.is_tcp { "tcp" } else { "unix" };
            let cores = if cell.shares_core { ", one core" } else { "" };
            assert_eq!(cell.name, format!("{transport} {}{cores}", cell.shape));
        }
    }
}
