//! Kept connections in the ring's table, beside their file descriptors.
//!
//! For a send to a slot of the table the kernel neither looks a descriptor up nor counts its file (2 % of the CPU time
//! of a request on a kept connection). So the file of a connection that goes on after its first bytes is put into the
//! slot that has its descriptor's number. All but sends goes by the descriptor.

use io_uring::{opcode, types};

use super::super::{Completion, Descriptor};
use super::socket::{Installed, Kind, Tag};
use super::{Uring, quiet};

/// Descriptors from here on are not installed.
pub(super) const INSTALLED_MAX: u32 = 16 * 1024;

/// The number of each descriptor, for the kernel to read it from.
static NUMBERS: [i32; INSTALLED_MAX as usize] = {
    let mut numbers = [0; INSTALLED_MAX as usize];
    let mut number = 0;
    while number < numbers.len() {
        numbers[number] = number as i32;
        number += 1;
    }
    numbers
};

impl Uring {
    /// Asks for a slot for an ordinary descriptor.
    pub(super) fn install(&mut self, descriptor: Descriptor) {
        if descriptor.is_direct() || descriptor.number() >= self.installable {
            return;
        }
        let Some(socket) = self.sockets.get_mut(descriptor) else { return };
        if socket.installed != Installed::No {
            return;
        }
        socket.installed = Installed::Asked;
        let tag = Tag { kind: Kind::Install, generation: socket.generation, index: descriptor.0 };
        let number = &NUMBERS[descriptor.number() as usize];
        let update = opcode::FilesUpdate::new(number, 1).offset(*number);
        self.in_flight += 1;
        // SAFETY: what the kernel reads is static.
        unsafe { self.queue.push_pointing(update.build().user_data(tag.to_u64())) };
    }

    /// One slot was filled, or it was refused and sends go on as before.
    pub(super) fn installed(&mut self, tag: Tag, result: i32) -> Option<Completion> {
        self.in_flight -= 1;
        let socket = self.sockets.of_tag(tag)?;
        socket.installed = if result == 1 { Installed::Yes } else { Installed::No };
        None
    }

    /// Empties the slot. A file that lies there is not closed with its descriptor.
    pub(super) fn uninstall(&mut self, descriptor: Descriptor) {
        self.queue.push(quiet(opcode::Close::new(types::Fixed(descriptor.number())).build()));
    }
}
